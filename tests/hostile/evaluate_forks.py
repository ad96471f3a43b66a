"""Start `biomedllama evaluate` again and again in milliseconds: a process that has loaded everything forks.

Run as a program it reads orders from stdin, one JSON line each; `Forks` writes them. A child can be told to die,
to be cut short or to wait after so many lines of its journal, and writes down what it computes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METALS = ("iron", "zinc oxide", "tin", "a salt of copper", "lead", "mercury")
QUESTIONS = 12
PROGRAM = Path(__file__).resolve()


def write_data(folder: Path) -> None:
    """Write medqa.jsonl and text.jsonl: made-up questions of four options, and documents of some windows."""
    rows = []
    for number in range(QUESTIONS):
        options = {letter: METALS[(number + place) % 6] for place, letter in enumerate("ABCD")}
        rows.append(
            {
                "question": f"Which metal has the made-up number {number}?" + " It is heavy." * (number % 5),
                "options": options,
                "answer_idx": "ABCD"[number % 4],
                "answer": options["ABCD"[number % 4]],
                "meta_info": f"step{number % 2 + 1}",
            }
        )
    texts = [{"text": f"The made-up metal {number} was weighed. " * (5 + number)} for number in range(8)]
    for name, content in (("medqa", rows), ("text", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))


def build_environment(repository: Path) -> dict[str, str]:
    """Return an environment in which a command finds this code, one thread, and no job that it would join."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        environment.pop(name, None)
    paths = os.pathsep.join([str(repository / "src"), environment.get("PYTHONPATH", "")])
    return environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}


@dataclass
class Ended:
    """How one process ended, and what it said."""

    code: int
    out: str
    errors: str


class Forks:
    """The program below, from the side of a test."""

    def __init__(self, environment: dict[str, str], folder: Path, program: Path = PROGRAM) -> None:
        self._folder, self._started = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, str(program)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, arguments: list[str], **order: Any) -> int:
        """Start the command and return the process id; see `obey` for what can be ordered."""
        self._started += 1
        said = str(self._folder / f"said-{self._started}")
        process_id = int(self._ask({"arguments": arguments, "said": said, **order}))
        (self._folder / f"{process_id}.said").write_text(said)
        return process_id

    def finish(self, process_id: int) -> Ended:
        """Wait for the end of a process."""
        code = int(self._ask({"wait": process_id}))
        said = (self._folder / f"{process_id}.said").read_text()
        return Ended(code, Path(f"{said}.out").read_text(), Path(f"{said}.errors").read_text())

    def run(self, arguments: list[str], **order: Any) -> Ended:
        """Start the command and wait for its end."""
        return self.finish(self.start(arguments, **order))

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._process.stdout.readline()


def obey(order: dict[str, Any]) -> None:
    """Be one start of the command.

    Args:
        order: `arguments`; `said`: where output goes; `environment`: more variables; `log`: file that gets one line
            per computed batch; `after`: so many lines of the journal, and then `deed`: `die`, `tear` (die in the
            middle of the next line) or `wait` (until `released`, a file, is there; `waiting` is made before);
            `at`: module and function at whose call it dies; `kilobytes`: the largest file that can be written.
    """
    for name, number in (("out", 1), ("errors", 2)):
        os.dup2(os.open(f"{order['said']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(order.get("environment", {}))
    if "log" in order:
        write_down_batches(Path(order["log"]))
    if "after" in order:
        interrupt(order)
    if "at" in order:
        module, function = order["at"]
        setattr(importlib.import_module(module), function, die)
    if "kilobytes" in order:
        import resource

        size = order["kilobytes"] << 10
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    from biomedllama_cli.cli.app import run

    sys.argv = ["biomedllama", *order["arguments"]]
    code = run(order["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def write_down_batches(log: Path) -> None:
    """Add a line to a file for every batch that is scored or generated."""
    from biomedllama_cli.evaluation.generation import HuggingFaceGenerator
    from biomedllama_cli.evaluation.scorer import SharedPrefixScorer

    def counting(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def wrapped(self: Any, *arguments: Any) -> Any:
            with log.open("a") as file:
                file.write(f"{method}\n")
            return original(self, *arguments)

        setattr(kind, method, wrapped)

    counting(SharedPrefixScorer, "_score_batch")
    counting(HuggingFaceGenerator, "_continue")


def interrupt(order: dict[str, Any]) -> None:
    """Do the ordered deed once the journal has got so many lines from this process."""
    from biomedllama_cli.evaluation.journal import Journal

    append, written = Journal.append, [0]
    deeds: dict[str, Callable[[Any], None]] = {"die": die, "tear": tear, "wait": lambda journal: wait(order)}

    def counted(self: Any, *arguments: Any) -> None:
        append(self, *arguments)
        written[0] += 1
        if written[0] == order["after"]:
            deeds[order["deed"]](self)

    Journal.append = counted  # type: ignore[method-assign]


def die(*arguments: Any, **more: Any) -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def tear(journal: Any) -> None:
    """Be killed in the middle of a line, of which a letter of two bytes is cut as well."""
    with (journal.folder / f"finished-{os.environ.get('RANK', '0')}.jsonl").open("ab") as file:
        file.write('{"key": "medqa/0/é'.encode()[:-1])
    die(journal)


def wait(order: dict[str, Any]) -> None:
    """Wait for leave to go on."""
    Path(order["waiting"]).touch()
    while not Path(order["released"]).exists():
        time.sleep(0.01)


def serve(preloaded: str, follow: Callable[[dict[str, Any]], None]) -> None:
    """Load a module with everything under it once, then fork for every order, which a child follows."""
    importlib.import_module(preloaded)
    for used in (
        "biomedllama_cli.cli.finetune",
        "numba",
        "matplotlib.backends.backend_agg",
        "PIL.PngImagePlugin",
    ):
        with contextlib.suppress(ImportError):  # numba is an extra
            importlib.import_module(used)  # every command does, late
    gc.collect()
    gc.freeze()  # else a collection in a fork copies all of the memory
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                try:
                    follow(order)
                finally:
                    os._exit(99)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    serve("biomedllama_cli.recipes.evaluate_model", obey)
