"""`biomedllama evaluate`."""

from __future__ import annotations

import typer

from biomedllama_cli.cli.call import read_call
from biomedllama_cli.cli.job import run_job
from biomedllama_cli.cli.output import Report


def evaluate(context: typer.Context) -> Report | None:
    """Score models on biomedical tasks with published protocols, compare them, and tabulate results."""
    from biomedllama_cli.settings.evaluate import EvaluateSettings

    call = read_call(context, EvaluateSettings)
    if call.answer is not None:  # --preset list, --print-config
        return call.answer

    from biomedllama_cli.recipes.evaluate_answers import answer_without_model

    answer = answer_without_model(call.settings)
    if answer is not None:  # --task list, --reproduce list, --compare, --leaderboard
        return answer

    from biomedllama_cli.settings.pretrain import ParallelSettings

    compute = call.settings.compute
    parallel = ParallelSettings(num_processes=compute.num_processes, device=compute.device)

    def story() -> Report:
        from biomedllama_cli.recipes.evaluate import evaluate as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    return run_job(context, parallel, story, alone=call.dry_run)
