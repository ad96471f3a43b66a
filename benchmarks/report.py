"""What every benchmark writes down: the machine, the commit, and one dated result."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def describe_machine() -> dict[str, Any]:
    """Return processor, cores, memory, versions and commit."""
    processor = platform.processor()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [
            line.split(":")[1].strip() for line in cpu_info.read_text().splitlines() if "model name" in line
        ]
        processor = names[0] if names else processor
    commit = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("torch", "transformers", "accelerate", "lm_eval", "datatrove", "tokenizers", "sentencepiece")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "commit": commit,
        "versions": {name: version(name) for name in packages},
    }


def describe_command(words: Sequence[str]) -> str:
    """Return the command that made a result; of folders and files only the names, which is what others can follow.

    >>> describe_command(["benchmarks/pretrain.py", "--folder", "/tmp/a/pretrain", "--parts", "speed"])
    'python benchmarks/pretrain.py --folder pretrain --parts speed'
    """
    script, *options = words
    shown = [Path(word).name if word.startswith("/") else word for word in options]
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])


def find_free_name(folder: Path, name: str) -> str:
    """Return a name without a result yet: what was measured before on the same day stays."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if not (folder / f"{each}.json").exists())


def write_result(name: str, lines: list[str], facts: dict[str, Any]) -> Path:
    """Write `results/DATE-NAME.md` and `.json`, print the text, and return the Markdown's path.

    Args:
        name: what was measured, and with which of the options that make it another measurement.
        lines: the text.
        facts: the numbers behind it.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = describe_machine()
    heading = [
        f"# {name}, {today}",
        "",
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB; commit {machine['commit']}; "
        f"Python {machine['python']}, "
        + ", ".join(f"{package} {number}" for package, number in machine["versions"].items())
        + f". Made by `{describe_command(sys.argv)}`.",
        "",
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    free = find_free_name(RESULTS, f"{today}-{name}")
    path = RESULTS / f"{free}.md"
    path.write_text("\n".join([*heading, *lines]) + "\n")
    (RESULTS / f"{free}.json").write_text(json.dumps({"machine": machine, **facts}, indent=1) + "\n")
    print("\n".join(lines), flush=True)
    return path
