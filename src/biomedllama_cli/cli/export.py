"""`biomedllama export`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def export(context: typer.Context) -> Report:
    """Make a plain transformers folder of a checkpoint, with a model card; no GPU is needed."""
    from biomedllama_cli.settings.export import ExportSettings

    call = read_call(context, ExportSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.export import export as recipe

    return recipe(call.settings, dry_run=call.dry_run)
