"""`sbatch`, `squeue`, `srun` and `scontrol` for tests of one job, installed by one under these names on PATH.

The folder SLURM_STUB keeps what they were given. srun really starts its tasks here, as if each were on a node of its
own, and treats signals as the true one does: USR1 goes to the tasks, TERM kills them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("SLURM_STUB", "."))
JOB = "4711"


def sbatch(arguments: list[str]) -> int:
    """Keep the script and the flags, and print the job's id; a script with `reject-me` is refused."""
    script = Path(arguments[-1]).read_text()
    if "reject-me" in script:
        print("sbatch: error: invalid partition specified", file=sys.stderr)
        return 1
    (ROOT / "submitted.json").write_text(json.dumps({"flags": arguments[:-1], "script": script}))
    print(JOB)
    return 0


def squeue(arguments: list[str]) -> int:
    """Say that the job waits, while the file `waiting` is there."""
    if not (ROOT / "waiting").exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print("PENDING")
    return 0


def scontrol(arguments: list[str]) -> int:
    """Name the nodes, or note that a job is to be queued again."""
    if arguments[:2] == ["show", "hostnames"]:
        print("127.0.0.1\nother")
        return 0
    assert arguments == ["requeue", JOB]
    with (ROOT / "requeued").open("a") as file:
        file.write(f"{arguments[1]}\n")
    return 0


def srun(arguments: list[str]) -> int:
    """Run the command once for each task; the highest exit code is the step's."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    flags = flags[: next(i for i, argument in enumerate([*arguments, ""]) if not argument.startswith("-"))]
    tasks = int(dict(flag.split("=", 1) for flag in flags)["--ntasks"])
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_LOCALID": "0"}
    step |= {"SLURM_NTASKS": str(tasks), "SLURM_STEP_NODELIST": "gpu[1-2]", "SLURM_NODELIST": "gpu[1-2]"}
    step |= {"SLURM_STEP_TASKS_PER_NODE": f"1(x{tasks})" if tasks > 1 else "1"}
    started = [
        subprocess.Popen(
            arguments[len(flags) :],
            env={**os.environ, **step, "SLURM_PROCID": str(node), "SLURM_NODEID": str(node)},
        )
        for node in range(tasks)
    ]

    def pass_on(number: int, frame: object) -> None:
        for task in started:
            task.send_signal(signal.SIGKILL if number == signal.SIGTERM else number)

    signal.signal(signal.SIGUSR1, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    codes = [task.wait() for task in started]
    return max(code if code >= 0 else 128 - code for code in codes)


if __name__ == "__main__":
    commands = {each.__name__: each for each in (sbatch, squeue, scontrol, srun)}
    sys.exit(commands[Path(sys.argv[0]).name](sys.argv[1:]))
