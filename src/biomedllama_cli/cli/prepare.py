"""`biomedllama prepare`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def prepare(context: typer.Context) -> Report:
    """Turn biomedical text into token shards whose origin is recorded."""
    from biomedllama_cli.settings.prepare import PrepareSettings

    call = read_call(context, PrepareSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.prepare import prepare as recipe

    return recipe(call.settings, dry_run=call.dry_run)
