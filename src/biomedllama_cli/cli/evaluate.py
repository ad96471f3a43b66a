"""`biomedllama evaluate`."""

from __future__ import annotations

import sys

import typer

from biomedllama_cli.cli.call import read_call
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

    from biomedllama_cli.engine.launch import launch_if_needed
    from biomedllama_cli.engine.rank import run_as_rank
    from biomedllama_cli.settings.pretrain import ParallelSettings

    compute = call.settings.compute
    parallel = ParallelSettings(num_processes=compute.num_processes, device=compute.device)
    arguments = sys.argv[1:] if context.obj is None else context.obj
    if not call.dry_run and launch_if_needed(parallel, arguments) is not None:
        return None  # the first of the processes it started has printed the report

    def story() -> Report:
        # In here, so that a rank reports an import that fails as well.
        from biomedllama_cli.recipes.evaluate import evaluate as recipe

        return recipe(call.settings, dry_run=call.dry_run)

    return run_as_rank(story)
