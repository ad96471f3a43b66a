"""`biomedllama instruct`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import run_job
from biomedllama_cli.cli.output import Report


def instruct(context: typer.Context) -> Report | None:
    """Tune a causal language model to follow instructions, on a mixture of sources."""
    from biomedllama_cli.settings.instruct import InstructSettings

    call = read_call(context, InstructSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.instruct_answers import answer_without_model

    answer = answer_without_model(call.settings)
    if answer is not None:  # --mixture list
        return answer

    def story() -> Report:
        from biomedllama_cli.engine.signals import Resumption
        from biomedllama_cli.recipes.tuning_files import check_base

        with Resumption():  # from before the seconds that the imports take
            check_base(call.settings.model)
            from biomedllama_cli.recipes.instruct import instruct as recipe

            return recipe(call.settings, dry_run=call.dry_run)

    alone = call.dry_run or bool(call.settings.show_masks)
    return run_job(context, call.settings.parallel, story, alone=alone)
