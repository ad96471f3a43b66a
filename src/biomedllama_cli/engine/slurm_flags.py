"""What a user says of a Slurm job, checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Sequence

from biomedllama_cli.corpus.sbatch import OwnOptions, check_script_options
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.pretrain import LaunchSettings, ParallelSettings

_OURS = OwnOptions(
    "pretrain",
    (
        *("--nodes", "--ntasks", "--ntasks-per-node", "--time", "--requeue", "--no-requeue", "--open-mode"),
        *("--signal", "--output", "--parsable", "--array", "--wait", "--wrap", "--chdir", "--test-only"),
    ),
    ("-N", "-n", "-t", "-o", "-a", "-W", "-D"),
    "Set --nodes, --slurm-time or --slurm-save-seconds, and leave the rest out.",
)
_WITHOUT_VALUE = ("--slurm", "--no-slurm", "--dry-run")
_WITH_VALUE = ("--slurm-time", "--slurm-option", "--slurm-setup", "--slurm-save-seconds")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<rest>\d+(?::\d+){0,2})")


def check_slurm(launch: LaunchSettings, parallel: ParallelSettings, resume: str) -> None:
    """Check what the script is to be made of.

    Raises:
        SettingsError: an option is none or one of ours, the time limit is none or leaves no time to train, it is not
            said how many GPUs a node shall give, or something is given that each start would do again.
    """
    check_script_options("launch", launch.slurm_option, launch.slurm_setup, _OURS)
    if launch.slurm_time is not None:
        seconds = parse_time_limit(launch.slurm_time)
        if seconds <= launch.slurm_save_seconds:
            raise SettingsError(
                f"slurm_time {launch.slurm_time} is {seconds} seconds, but must be more than slurm_save_seconds, "
                f"which is {launch.slurm_save_seconds}: the run would be told to save at once.",
                "Give it more time, or a smaller --slurm-save-seconds.",
            )
    if parallel.num_processes is None and parallel.device != "cpu":
        raise SettingsError(
            "slurm is on, so num_processes must be given: the number of GPUs of each node.",
            "For 8 GPUs on each node: --num-processes 8. For CPUs: --device cpu.",
        )
    for name in ("node_rank", "rendezvous"):
        if getattr(parallel, name) is not None:
            raise SettingsError(
                f"{name} is {getattr(parallel, name)}, but with slurm the script gives it to every node.",
                f"Leave --{name.replace('_', '-')} out.",
            )
    if launch.print_launch:
        raise SettingsError(
            "print_launch and slurm are both on, but only one can say how the job is started.",
            "Leave --print-launch out; --slurm --dry-run shows the script.",
        )
    if resume != "auto":
        raise SettingsError(
            f"slurm is on, but resume is {resume}: each start of the job would go back there.",
            "Leave --resume out.",
        )


def parse_time_limit(text: str) -> int:
    """Return a time limit in seconds, read as sbatch does: MINUTES[:SECONDS], HOURS:MINUTES:SECONDS, DAYS-HOURS[:...].

    >>> parse_time_limit("90"), parse_time_limit("1:30:00"), parse_time_limit("2-12"), parse_time_limit("0:30")
    (5400, 5400, 216000, 30)

    Raises:
        SettingsError: it is none.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"slurm_time is {text!r}, but must be a time as sbatch takes it.",
            "Minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS: --slurm-time 24:00:00",
        )
    numbers = [int(number) for number in found["rest"].split(":")]
    if found["days"] is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
        return ((int(found["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(numbers) < 3:
        numbers = [0, *numbers, 0][:3]
    hours, minutes, seconds = numbers
    return (hours * 60 + minutes) * 60 + seconds


def strip_slurm_flags(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without the flags that concern Slurm, as the nodes run it: a dry run shows that one too.

    >>> strip_slurm_flags(["pretrain", "--slurm", "--dry-run", "--slurm-time", "9", "--slurm-option=-px", "--seed=1"])
    ('pretrain', '--seed=1')
    """
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument in _WITH_VALUE:
            next(rest, None)
        elif argument not in _WITHOUT_VALUE and argument.partition("=")[0] not in _WITH_VALUE:
            kept.append(argument)
    return tuple(kept)


def name_option(option: str) -> str:
    """Return an option's name, without its value.

    >>> name_option("--gres=gpu:8"), name_option("-c8")
    ('--gres', '-c')
    """
    return option.partition("=")[0] if option.startswith("--") else option[:2]
