"""The test questions of a fine-tuned task, and what the model answers before and after."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from biomedllama_cli.errors import SettingsError, UnavailableError
from biomedllama_cli.evaluation.output import RESULTS_FILE
from biomedllama_cli.evaluation.scores import LIKELIHOOD_SCORE
from biomedllama_cli.evaluation.seed_results import load_gains
from biomedllama_cli.models.chat_template import choose_template
from biomedllama_cli.models.identity import hash_weights, locate_model
from biomedllama_cli.recipes.evaluate import evaluate
from biomedllama_cli.recipes.evaluate_sources import was_interrupted_after
from biomedllama_cli.recipes.tuning_plan import Pupil
from biomedllama_cli.recipes.tuning_report import SeedRun
from biomedllama_cli.settings.evaluate import ComputeSettings, EvaluateSettings, ProtocolSettings
from biomedllama_cli.settings.finetune import FinetuneSettings, QuestionSettings
from biomedllama_cli.tasks.catalogue import TASKS, LoadedQuestions, QuestionTask, load_questions

logger = logging.getLogger(__name__)

OWN_TASK = "questions"
"""The task of `evaluate` that reads one's own questions."""
_RESULT_SETTINGS = ("protocol", "generation", "seed")


@dataclass(frozen=True)
class TestQuestions:
    """What is scored before and after.

    Attributes:
        task: of `evaluate`.
        file: local file, or None for the hub.
        loaded: the questions.
    """

    __test__ = False  # pytest: this is no test

    task: str
    file: Path | None
    loaded: LoadedQuestions


def load_test(settings: QuestionSettings) -> TestQuestions | None:
    """Read the test questions before anything is trained: they are also what training must not have seen.

    Raises:
        SettingsError: a test file is given in a way that the task does not have.
        DataError: the file is missing, broken or of another task.
        UnavailableError: the hub is needed and cannot be reached.
    """
    known = TASKS.get(settings.task)
    if isinstance(known, QuestionTask):
        if settings.test is not None:
            raise SettingsError(
                f"questions.test is {settings.test}, but {settings.task} has a test set of its own.",
                f"Use --data {settings.task}={settings.test}.",
            )
        file = settings.test_file
        if file is None and not settings.evaluate:
            return None
        try:
            return TestQuestions(settings.task, file, load_questions(known, shots=0, test_file=file))
        except UnavailableError as error:
            raise UnavailableError(
                error.message,
                f"Give the test file: --data {settings.task}=FILE; or --no-evaluate, and score the model later.",
            ) from error
    if settings.test_file is not None:
        raise SettingsError(
            f"questions.data names test questions for {settings.task}, which is a file of your own.",
            f"Use --test {settings.test_file}.",
        )
    if settings.test is None:
        if settings.evaluate:
            logger.warning(
                "no test questions were given (--test FILE): the model is not scored before and after"
            )
        return None
    own = TASKS[OWN_TASK]
    assert isinstance(own, QuestionTask)
    return TestQuestions(OWN_TASK, settings.test, load_questions(own, shots=0, test_file=settings.test))


def score_before_and_after(
    settings: FinetuneSettings, pupil: Pupil, test: TestQuestions, runs: Sequence[SeedRun], folder: Path
) -> dict[str, Any]:
    """Score the model as it was and as each seed made it, asked alike, and measure the gain.

    What an earlier start of the same command scored is not scored again.

    Returns:
        The gains of a report; empty on all processes but the first, and where no scoring is asked for.
    """
    if not settings.questions.evaluate:
        return {}
    template = choose_template(pupil.tokenizer, pupil.source, settings.rows.template).name
    models = {"before": pupil.source} | {
        f"seed-{run.seed}": str(run.merged or run.checkpoint) for run in runs
    }
    folders = {
        name: score(build_request(settings, model, test, folder / name, template), test)
        for name, model in models.items()
    }
    before, after = folders["before"], {run.seed: [folders[f"seed-{run.seed}"]] for run in runs}
    if os.environ.get("RANK", "0") != "0":
        return {}  # the first process tells
    return {
        "gains": load_gains([before], after),
        "likelihood_gains": load_gains([before], after, score=LIKELIHOOD_SCORE),
    }


def build_request(
    settings: FinetuneSettings,
    model: str,
    test: TestQuestions,
    folder: Path,
    template: Literal["plain", "chat"],
) -> EvaluateSettings:
    """Return what `evaluate` is asked for: the profile of fine-tuned models, with the context it has by default.

    A test prompt needs room for its answer beside it, so that rows as short as those of training would cut questions.
    """
    default = ProtocolSettings()
    return EvaluateSettings(
        workspace=settings.workspace,
        model=(model,),
        output_dir=folder,
        overwrite=True,
        protocol=ProtocolSettings(
            profile=("finetuned",),
            task=(test.task,),
            data=(f"{test.task}={test.file}",) if test.file else (),
            limit=settings.questions.test_limit,
            context_length=max(default.context_length, settings.batch.sequence_length),
            template=template,
        ),
        compute=ComputeSettings(
            device=settings.parallel.device, num_processes=settings.parallel.num_processes
        ),
    )


def score(request: EvaluateSettings, test: TestQuestions) -> Path:
    """Score one model on the test questions, and return the results folder."""
    folder = request.output_dir
    assert folder is not None
    # An evaluation that was killed after its last word is taken up once more: it removes its work folder.
    if was_interrupted_after(folder) or not holds_the_same(folder, request, test):
        evaluate(request)
    return folder


def holds_the_same(folder: Path, request: EvaluateSettings, test: TestQuestions) -> bool:
    """Tell whether a folder holds the results of the same model, questions and protocol."""
    try:
        content = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        asked = request.model_dump(mode="json")
        same = all(content["settings"][name] == asked[name] for name in (*_RESULT_SETTINGS, "model"))
        (cell,) = content["questions"]
        same = same and cell["facts"]["source"]["sha256"] == test.loaded.source.sha256
        if not same:
            return False
        # A model that was trained once more lies where the first one lay.
        weights = locate_model(content["model"]["source"], content["model"]["revision"])
        return weights is not None and bool(hash_weights(weights) == content["model"]["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
