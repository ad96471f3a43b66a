"""What Typer refuses, said the way every other error is said."""

from __future__ import annotations

import typer

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.leaves import TREES
from biomedllama_cli.settings.suggest import suggest


def explain_usage_error(error: typer.TyperException, arguments: list[str]) -> SettingsError:
    """Turn an error of Typer's parser into one of ours, with a suggestion where there is one."""
    context = getattr(error, "ctx", None)
    command = next((each for each in arguments[:1] if each in TREES), "")
    where = context.command_path if context is not None else f"biomedllama {command}".strip()
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):  # an option nobody has
        return SettingsError(f"{option} is not an option of `{where}`.", _suggest_option(option, context))
    message, _, suggestion = error.format_message().partition(" Did you mean ")
    hint = f"Did you mean {suggestion}" if suggestion else f"Run `{where} --help`."
    if command == "chat" and "extra argument" in message:
        hint = 'A question is given by --prompt: biomedllama chat --prompt "...".'
    return SettingsError(message.strip().rstrip(".") + ".", hint)


def _suggest_option(option: str, context: typer.Context | None) -> str:
    known = (
        []
        if context is None
        else [flag for each in context.command.get_params(context) for flag in each.opts]
    )
    # A section path as files write it (--optimizer.weight-decay) finds its leaf as well.
    leaf = "--" + option.lstrip("-").split(".")[-1].replace("_", "-")
    if leaf in known:
        return f"Did you mean {leaf}?"
    name = context.command_path if context is not None else "biomedllama"
    return suggest(option, [each for each in known if each.startswith("--")]) or f"Run `{name} --help`."
