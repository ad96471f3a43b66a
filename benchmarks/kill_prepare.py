"""Kill `prepare` at random moments, start it again at once, and compare the corpus with an undisturbed one.

`python benchmarks/kill_prepare.py --kills 50` writes a dated result; the tests run a few of the same kills. Who is
killed (the parent alone, one worker, the whole process group) and when (while tasks run, while the corpus is put
together, while it is published) follows from the seed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from biomedllama_cli.models.tokenizer import train_tokenizer

WHO = ("parent", "worker", "group")
WHEN = ("tasks", "assembly", "publishing")
FILES = 8
WORKERS = 2
_WORDS = ["".join(random.Random(i).choices("abcdefghilmnoprstuv", k=5)) for i in range(2000)]
_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Kill:
    """What one kill did.

    Attributes:
        seed: of who and when.
        who: whom the signal went to.
        when: in which part of the work.
        ended_before: whether the job was over before the moment came.
        exit_code: of the disturbed process; negative for the signal that ended it.
        finished_before: tasks that were finished when the process was gone.
        resumed: tasks that the second start did not do again.
        same_bytes: whether the corpus is that of an undisturbed run.
        leftovers: entries beside the corpus after the second start.
    """

    seed: int
    who: str
    when: str
    ended_before: bool
    exit_code: int
    finished_before: int
    resumed: int
    same_bytes: bool
    leftovers: list[str]

    @property
    def survived(self) -> bool:
        """Whether nothing was lost, repeated or left."""
        return self.same_bytes and not self.leftovers and self.finished_before <= self.resumed


def make_material(folder: Path, documents: int = 150) -> Path:
    """Write input files (some documents twice), a tokenizer, and the corpus of an undisturbed run into `folder`."""
    train_tokenizer([" ".join(_WORDS)], 400, folder / "tokenizer", seed=0)
    (folder / "input").mkdir()
    for number in range(FILES):
        draw = random.Random(number)
        texts = [" ".join(draw.choices(_WORDS, k=300)) for _ in range(documents)]
        texts += [" ".join(random.Random(-1).choices(_WORDS, k=300))]
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / "input" / f"{number}.jsonl").write_text("".join(lines))
    _finish(folder, folder / "expected")
    return folder


def kill_once(material: Path, output: Path, seed: int) -> Kill:
    """Start `prepare`, kill it at a random moment, start it again at once, and look at the result.

    Args:
        material: `make_material`'s folder.
        output: the corpus to be, in a folder that holds nothing else.
        seed: of who is killed and when.
    """
    draw = random.Random(seed)
    who, when = WHO[seed % len(WHO)], draw.choices(WHEN, (3, 1, 1))[0]
    process = _start(material, output, subprocess.DEVNULL)
    moment = _choose_moment(output, when, draw)
    while process.poll() is None and not moment():
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.3 if when == "tasks" else 0.02))
    ended_before = process.poll() is not None
    if not ended_before:
        who = _kill(process, who, draw)
    process.wait(_TIMEOUT_SECONDS)  # for it alone: its workers may still be dying
    marks = _find_work_folder(output) / "executor" / "completions"
    finished = len(list(marks.glob("*"))) if marks.exists() else 0
    report = _finish(material, output)
    repeated_nothing = report["state"] == "already_finished"
    return Kill(
        seed=seed,
        who=who,
        when=when,
        ended_before=ended_before,
        exit_code=process.returncode,
        finished_before=finished,
        resumed=FILES if repeated_nothing else report["tasks_resumed"],
        same_bytes=read_corpus(output) == read_corpus(material / "expected"),
        leftovers=sorted(entry.name for entry in output.parent.iterdir() if entry != output),
    )


def read_corpus(folder: Path) -> dict[str, bytes]:
    """Return all files of a corpus but those that tell its name, the time and the command."""
    described = ("manifest.json", "data_card", "DATA_CARD")
    names = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(described)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def _find_work_folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _choose_moment(output: Path, when: str, draw: random.Random) -> Callable[[], bool]:
    """Return a function that tells whether the moment to be drawn from has come."""
    work = _find_work_folder(output)
    if when == "tasks":
        wanted = draw.randrange(FILES)
        return lambda: len(list(work.glob("executor/completions/*"))) >= wanted and (work / "tasks").exists()
    if when == "assembly":
        return (work / "corpus").exists
    return lambda: (work / "corpus" / "manifest.json").exists() or output.exists()


def _kill(process: subprocess.Popen[str], who: str, draw: random.Random) -> str:
    """Kill and return whom: the parent in place of a worker where none is left, since the tasks are done."""
    try:
        if who == "group":
            os.killpg(process.pid, signal.SIGKILL)
            return who
        workers = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        if who == "worker" and workers:
            draw.choice(workers).kill()
            return who
        process.kill()
        return "parent"
    except (ProcessLookupError, psutil.NoSuchProcess):
        return who


def _start(material: Path, output: Path, to: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "biomedllama_cli", "prepare", "--json", "--workers", str(WORKERS)]
    command += ["--input", str(material / "input"), "--tokenizer", str(material / "tokenizer")]
    command += ["--output-dir", str(output)]
    return subprocess.Popen(command, stdout=to, stderr=to, text=True, start_new_session=True)


def _finish(material: Path, output: Path) -> dict[str, Any]:
    process = _start(material, output)
    out, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    if process.returncode != 0:
        raise RuntimeError(f"prepare ended with {process.returncode}: {out}{errors}")
    report: dict[str, Any] = json.loads(out)
    return report


def main() -> None:
    """Run the kills and write the result."""
    from report import write_result

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kill-prepare-"))
    try:
        material = make_material(folder)
        kills = []
        for seed in range(arguments.kills):
            (folder / f"{seed}").mkdir()
            kills.append(kill_once(material, folder / f"{seed}" / "corpus", seed))
            print(kills[-1], flush=True)
            shutil.rmtree(folder / f"{seed}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_result("kill_prepare", summarise(kills), {"kills": [asdict(kill) for kill in kills]})
    sys.exit(not all(kill.survived for kill in kills))


def summarise(kills: list[Kill]) -> list[str]:
    """Return the result in words and as a table."""
    survived = sum(kill.survived for kill in kills)
    table = Counter((kill.who, kill.when) for kill in kills if not kill.ended_before)
    return [
        f"{len(kills)} kills of a job of {FILES} tasks and {WORKERS} workers, each followed at once by the same "
        f"command: {survived} with the same bytes as an undisturbed run, no finished task repeated and nothing "
        f"left beside the corpus. {sum(kill.ended_before for kill in kills)} came after the job's end.",
        "",
        "| killed | " + " | ".join(WHEN) + " |",
        "|---|" + "---|" * len(WHEN),
        *(f"| {who} | " + " | ".join(str(table[who, when]) for when in WHEN) + " |" for who in WHO),
    ]


if __name__ == "__main__":
    main()
