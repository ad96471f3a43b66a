"""A cluster of one machine: `sbatch` and `squeue` that really run the jobs, as processes.

Installed by a test under both names on PATH. Jobs live in the folder SLURM_STUB: `ID/script`, `ID/job.json`,
`ID/codes.json` when it has ended. While the file `hold` is there, jobs wait.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(os.environ.get("SLURM_STUB", "."))  # pytest imports every file here for its doctests
_LONGEST_WAIT = 120.0  # seconds; a test that ends early must not leave jobs behind


def sbatch(arguments: list[str]) -> int:
    """Copy the script, start the job in the background, and print its id."""
    *flags, script = arguments
    assert flags[0] == "--parsable"
    options = dict(flag.removeprefix("--").split("=", 1) for flag in flags[1:])
    text = Path(script).read_text()
    assert text.startswith("#!/bin/bash\n")
    if "reject-me" in text:
        print("sbatch: error: invalid partition specified", file=sys.stderr)
        return 1
    number = next(number for number in range(101, 1000) if not (ROOT / str(number)).exists())
    job = ROOT / str(number)
    job.mkdir()
    (job / "script").write_text(text)
    (job / "job.json").write_text(json.dumps({"options": options, "directory": os.getcwd()}))
    subprocess.Popen(
        [sys.executable, __file__, "run", str(number)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print(number)
    return 0


def squeue(arguments: list[str]) -> int:
    """Print the state of a job, as squeue does: an error when it is long gone."""
    number = next(argument for argument in arguments if argument.startswith("--jobs=")).removeprefix(
        "--jobs="
    )
    if (ROOT / number / "codes.json").exists() or not (ROOT / number).exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print("PENDING" if (ROOT / "hold").exists() else "RUNNING")
    return 0


def run(number: str) -> int:
    """Run a job's elements once what it depends on has ended."""
    job = ROOT / number
    facts = json.loads((job / "job.json").read_text())
    options = facts["options"]
    kind, _, before = options.get("dependency", "").partition(":")
    assert kind in ("", "afterany")
    deadline = time.monotonic() + _LONGEST_WAIT
    while (ROOT / "hold").exists() or (before and not (ROOT / before / "codes.json").exists()):
        time.sleep(0.02)
        if time.monotonic() > deadline or not job.exists():
            return 1
    array = re.fullmatch(r"0-(\d+)(?:%(\d+))?", options.get("array", "0-0"))
    assert array is not None
    elements = range(int(array[1]) + 1)
    assert len(elements) <= 1001

    def run_element(element: int) -> int:
        output = options["output"].replace("%A", number).replace("%j", number).replace("%a", str(element))
        environment = os.environ | {"SLURM_JOB_ID": number}
        if "array" in options:
            environment |= {"SLURM_ARRAY_TASK_ID": str(element), "SLURM_ARRAY_JOB_ID": number}
        path = Path(output.replace("%%", "%"))
        with (path if path.parent.exists() else Path(os.devnull)).open("wb") as log:
            done = subprocess.run(
                ["bash", str(job / "script")], cwd=facts["directory"], env=environment, check=False,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        return done.returncode

    with ThreadPoolExecutor(int(array[2] or 2)) as pool:
        codes = list(pool.map(run_element, elements))
    new = job / "codes.new"
    new.write_text(json.dumps(codes))
    new.replace(job / "codes.json")
    return 0


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    sys.exit(
        run(sys.argv[2])
        if sys.argv[1:2] == ["run"]
        else {"sbatch": sbatch, "squeue": squeue}[name](sys.argv[1:])
    )
