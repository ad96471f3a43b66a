"""What can go wrong that a user can mend, and the exit code each kind of trouble has."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; documented in docs/configuration.md and frozen by a test."""

    SUCCESS = 0
    FAILURE = 1
    """An unexpected failure: a bug, or a library's own error."""
    USAGE = 2
    """A flag, a settings file, an environment variable or a preset is wrong."""
    DATA = 3
    """Input data is missing, broken or does not fit the command."""
    MODEL = 4
    """A model or a tokenizer cannot be loaded, or does not fit the corpus."""
    UNAVAILABLE = 5
    """A hub, an optional package or a device is not to be had here."""
    OUTPUT = 6
    """The output folder is in use, not empty or cannot be written."""
    WORKER = 7
    """A worker process of a launched job failed."""
    BELOW_THRESHOLD = 8
    """Everything was done, and a result is worse than `--fail-under` allows."""
    RESUMABLE = 75
    """Stopped by a signal after saving: the same command continues (EX_TEMPFAIL)."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C with nothing to save."""


class UserError(Exception):
    """A problem a user can mend: one sentence naming field, value and rule, and a hint.

    Args:
        message: one sentence, without a trailing hint.
        hint: what to do about it, or an empty string.
    """

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str]]:
        """Survive the way back from a worker process with the hint."""
        return type(self), (self.message, self.hint)


class SettingsError(UserError):
    """A setting is unknown, malformed or contradicts another."""

    exit_code = ExitCode.USAGE


class DataError(UserError):
    """Input data is missing, broken or does not fit."""

    exit_code = ExitCode.DATA


class ModelError(UserError):
    """A model or tokenizer cannot be used."""

    exit_code = ExitCode.MODEL


class UnavailableError(UserError):
    """A hub, an optional package or a device is not to be had."""

    exit_code = ExitCode.UNAVAILABLE


class OutputError(UserError):
    """The output folder cannot be used."""

    exit_code = ExitCode.OUTPUT


class WorkerError(UserError):
    """A worker process failed."""

    exit_code = ExitCode.WORKER


class ThresholdError(UserError):
    """A result is worse than a value it was asked to reach."""

    exit_code = ExitCode.BELOW_THRESHOLD


class Resumable(UserError):
    """The run was stopped by a signal and saved: the same command continues it."""

    exit_code = ExitCode.RESUMABLE
