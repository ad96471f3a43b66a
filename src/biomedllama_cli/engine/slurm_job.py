"""A training run as one Slurm job: its script, which has itself queued again until the run is done.

The script and the log are in a folder beside the run folder: `--overwrite` empties that, and files that no run has
written there make it foreign.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from biomedllama_cli.corpus.sbatch import (
    Submission,
    call_sbatch,
    escape_pattern,
    is_going_on,
    read_submission,
    record_submission,
)
from biomedllama_cli.engine.launch import MODULE
from biomedllama_cli.engine.saved_runs import CHECKPOINTS, MARKER, PREFIX
from biomedllama_cli.engine.slurm_flags import name_option
from biomedllama_cli.errors import ExitCode, OutputError
from biomedllama_cli.settings.pretrain import LaunchSettings, ParallelSettings

SCRIPT_FILE = "pretrain.sbatch"
_GPU_OPTIONS = ("--gpus-per-node", "--gpus", "--gpus-per-task", "--gres", "-G")
_CORE_OPTIONS = ("--cpus-per-task", "--cpus-per-gpu", "--exclusive", "-c")
_CORES_PER_GPU = 2
_LAST_NODE_SECONDS = 600
"""How long the other nodes may go on when one has ended; the first writes the report after the others are done."""


@dataclass(frozen=True)
class SlurmJob:
    """One training run for Slurm.

    Attributes:
        run_folder: absolute; its newest checkpoint tells whether a start got anywhere.
        directory: where the command was given, which paths in it are relative to.
        arguments: the command line after `biomedllama`, without what concerns Slurm.
        launch: options and time limit.
        parallel: nodes and processes.
    """

    run_folder: Path
    directory: Path
    arguments: tuple[str, ...]
    launch: LaunchSettings
    parallel: ParallelSettings

    @property
    def folder(self) -> Path:
        """Where script, log and the record of the submission are."""
        return self.run_folder.with_name(f"{self.run_folder.name}.slurm")

    @property
    def script(self) -> Path:
        """The script."""
        return self.folder / SCRIPT_FILE

    def find_log(self, job: str) -> Path:
        """Return the log of a job, to which each of its starts appends."""
        return self.folder / f"{job.partition(';')[0]}.log"

    def submit(self) -> str:
        """Write the script, submit it, and return the job's id.

        Raises:
            OutputError: Slurm has a job of this run already, or the folder cannot be written.
            UnavailableError: sbatch cannot be run.
            WorkerError: sbatch refused.
        """
        earlier = read_submission(self.folder)
        if earlier is not None and is_going_on(earlier):
            raise OutputError(
                f"output_dir {self.run_folder} is in use: {earlier.label} waits for its turn or trains it.",
                f"Wait for it, end it with `scancel {earlier.jobs[0].partition(';')[0]}`, or give another "
                "--output-dir.",
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.script.write_text(self.build_script(), encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{self.folder}, for Slurm's script, cannot be written: {error.strerror}."
            ) from error
        job = call_sbatch([f"--output={escape_pattern(self.folder)}/%j.log", str(self.script)])
        record_submission(self.folder, Submission((job,)))
        return job

    def build_script(self) -> str:
        """Return the script's text."""
        head = ["#!/bin/bash", *(f"#SBATCH {option}" for option in self._list_options())]
        places = {
            "run": self.run_folder,
            "directory": self.directory,
            "stalled": f"{self.folder}/stalled-",
        }
        values = [f"{name}={shlex.quote(str(place))}" for name, place in places.items()]
        setup = ["set -e", self.launch.slurm_setup, "set +e"] if self.launch.slurm_setup else []
        return "\n".join(
            [*head, *values, *setup, 'cd -- "$directory" || exit', _BEFORE, self._build_step(), _AFTER]
        )

    def _list_options(self) -> list[str]:
        parallel, launch = self.parallel, self.launch
        processes = parallel.num_processes or 1
        on_cpu = parallel.device == "cpu"
        cores = processes * ((1 if on_cpu else _CORES_PER_GPU) + parallel.data_workers)
        name = re.sub(r"[^\w.-]", "-", self.run_folder.name)
        ours: dict[tuple[str, ...], str] = {
            ("--job-name", "-J"): f"--job-name={name}",
            _CORE_OPTIONS: f"--cpus-per-task={cores}",
        }
        if not on_cpu:
            ours[_GPU_OPTIONS] = f"--gpus-per-node={processes}"
        given = {name_option(option) for option in launch.slurm_option}
        return [
            f"--nodes={parallel.nodes}",
            "--ntasks-per-node=1",
            *(option for names, option in ours.items() if given.isdisjoint(names)),
            *([f"--time={launch.slurm_time}"] if launch.slurm_time else []),
            "--requeue",
            "--open-mode=append",
            f"--signal=B:USR1@{launch.slurm_save_seconds}",
            *launch.slurm_option,
        ]

    def _build_step(self) -> str:
        """Return the lines that start the launcher of every node."""
        nodes = self.parallel.nodes
        step = ["srun", "--export=ALL", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
        # All of the job's cores for all processes of a node, and no node killed while another still saves.
        step += ["--cpu-bind=none", "--kill-on-bad-exit=0", f"--wait={_LAST_NODE_SECONDS}"]
        # What the setup activates, or else the interpreter at hand.
        python = "python" if self.launch.slurm_setup else sys.executable
        command = [python, "-m", MODULE, *self.arguments, "--no-slurm", "--nodes", str(nodes)]
        if nodes == 1:
            return f"{shlex.join([*step, *command])} &"
        node = ["bash", "-c", 'exec "$@" --node-rank "$SLURM_NODEID"', "launcher"]
        return f'{_MEETING_POINT}\n{shlex.join([*step, *node, *command])} --rendezvous "$host:$port" &'


_MEETING_POINT = """\
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit
host=${hosts%%$'\\n'*}
port=$((20000 + SLURM_JOB_ID % 6000 * 2))  # and the next one"""

_BEFORE = f"""\
stalled+=$SLURM_JOB_ID

newest() {{
    local mark last=
    for mark in "$run"/{CHECKPOINTS}/{PREFIX}*/{MARKER}; do
        [ -e "$mark" ] && last=$mark
    done
    printf '%s' "$last"
}}

# USR1 comes some time before the time limit: the run saves, and is queued again. TERM comes when Slurm ends the job
# (scancel, preemption, the time limit itself): the run saves, and Slurm decides what becomes of the job. The step gets
# USR1 for both, since srun kills its tasks at a TERM.
step= signalled= ending=
forward() {{
    signalled=yes
    [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null
}}
trap forward USR1
trap 'ending=yes; forward' TERM

before=$(newest)"""

_AFTER = f"""\
step=$!
[ -z "$signalled" ] || kill -USR1 "$step"
signalled=yes
while [ -n "$signalled" ]; do  # a signal ends the wait, not the step
    signalled=
    wait "$step"
    code=$?
done

[ "$code" -eq {int(ExitCode.RESUMABLE)} ] || exit "$code"
if [ -n "$ending" ]; then
    echo "Saved; Slurm ended the job, which is not queued again from here." >&2
    exit "$code"
fi
if [ "$(newest)" != "$before" ]; then
    rm -f -- "$stalled"
elif [ -e "$stalled" ]; then
    echo "Two starts have made no new checkpoint, so the job is not queued again: give it more time." >&2
    exit "$code"
else
    : > "$stalled"
fi
echo "Saved; asking Slurm to queue the job again." >&2
scontrol requeue "$SLURM_JOB_ID" || echo "Slurm refused: give the same command again to go on." >&2
exit "$code"
"""
