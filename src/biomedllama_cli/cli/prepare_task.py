"""`python -m biomedllama_cli.cli.prepare_task WORK JOB RANK ...`: what the jobs of `prepare --executor slurm` run.

With `--finish` instead of numbers it puts the corpus together. It reads the job from the work folder, so it has no
options of its own; the scripts that call it are written by `prepare` (docs/scaling-out.md).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from biomedllama_cli.cli.logs import configure_logging
from biomedllama_cli.cli.output import print_error, print_report


def main(arguments: list[str]) -> int:
    """Run tasks, or the end of a job, and return the exit code."""
    parser = argparse.ArgumentParser(prog="prepare_task", description="Run tasks of a prepare job.")
    parser.add_argument("work", type=Path, help="work folder of the job")
    parser.add_argument("job", help="short hash of the job that must be in it")
    parser.add_argument("ranks", type=int, nargs="*", help="numbers of the tasks to run")
    parser.add_argument("--finish", action="store_true", help="put the corpus together")
    options = parser.parse_args(arguments)
    configure_logging(0)
    try:
        if options.finish:
            _finish(options.work, options.job)
        else:
            _run(options.work, options.job, options.ranks)
    except (Exception, KeyboardInterrupt) as error:
        return print_error(error, as_json=False, debug=False)
    return 0


def _run(work: Path, job: str, ranks: list[int]) -> None:
    from biomedllama_cli.corpus.executor import resumable_on_signals
    from biomedllama_cli.recipes.prepare_task import run_task

    with resumable_on_signals():
        for rank in ranks:
            run_task(str(work), job, rank)


def _finish(work: Path, job: str) -> None:
    import os

    from biomedllama_cli.corpus.locks import check_token
    from biomedllama_cli.recipes.prepare import prepare
    from biomedllama_cli.recipes.prepare_task import load_description

    check_token(work, job)
    description = load_description(work)
    os.chdir(description.directory)
    sys.argv = shlex.split(description.command)  # the corpus names the command that began it
    print_report(prepare(description.settings, finishing=True), as_json=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
