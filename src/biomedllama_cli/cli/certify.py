"""`biomedllama certify`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.output import Report


def certify(context: typer.Context) -> Report:
    """Prove that a pretraining run was fed every sequence of every epoch exactly once."""
    from biomedllama_cli.settings.certify import CertifySettings

    call = read_call(context, CertifySettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.certify import certify as recipe

    return recipe(call.settings)  # it writes nothing, so a dry run is the same
