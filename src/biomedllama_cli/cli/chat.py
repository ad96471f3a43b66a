"""`biomedllama chat`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def chat(context: typer.Context) -> Report | None:
    """Talk to a model, see what it would answer in the exam and why, with sources from one's own corpus."""
    from biomedllama_cli.settings.chat import ChatSettings

    call = read_call(context, ChatSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.chat import chat as recipe

    return recipe(call.settings, dry_run=call.dry_run, as_json=bool(context.params["json"]))
