"""`biomedllama finetune`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import run_job
from biomedllama_cli.cli.output import Report


def finetune(context: typer.Context) -> Report | None:
    """Fine-tune a causal language model on multiple-choice questions; score it before and after."""
    from biomedllama_cli.settings.finetune import FinetuneSettings

    call = read_call(context, FinetuneSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    def story() -> Report:
        from biomedllama_cli.engine.signals import Resumption
        from biomedllama_cli.recipes.tuning_files import check_base, check_question_files

        with Resumption():  # from before the seconds that the imports take
            check_base(call.settings.model)
            check_question_files(call.settings.questions)
            from biomedllama_cli.recipes.finetune import finetune as recipe

            return recipe(call.settings, dry_run=call.dry_run)

    alone = call.dry_run or bool(call.settings.show_masks)
    return run_job(context, call.settings.parallel, story, alone=alone)
