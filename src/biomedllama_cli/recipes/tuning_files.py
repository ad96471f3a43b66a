"""What is given to `finetune` and `instruct` and is not there: refused before the imports that take seconds."""

from __future__ import annotations

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.training_questions import check_task
from biomedllama_cli.recipes.evaluate_sources import SCRATCH_PREFIX, check_source, refuse_gguf
from biomedllama_cli.settings.finetune import QuestionSettings
from biomedllama_cli.tasks.catalogue import TASKS


def check_question_files(settings: QuestionSettings) -> None:
    """Check that the files of questions are there.

    Raises:
        SettingsError: there is no such task, or another training file for a task that is a file.
        DataError: a file is missing.
    """
    check_task(settings.task, settings.training_file)
    if settings.task not in TASKS and settings.test_file is not None:
        return  # refused for its name, whether it is there or not
    given = (
        (f"--data {settings.task}.train=FILE", settings.training_file),
        (f"--data {settings.task}=FILE", settings.test_file),
        ("--test FILE", settings.test),
    )
    for flag, path in given:
        if path is not None and not path.exists():
            raise DataError(f"{path}: there is no such file", f"Give {flag} the path of an existing file.")


def check_base(model: str) -> None:
    """Check that a model given as a folder is there, and where it is an adapter, its base.

    Raises:
        ModelError: it is not, or is a GGUF file.
    """
    if model and not model.startswith(SCRATCH_PREFIX):  # refused in the words of tuning
        refuse_gguf(model)
        check_source(model)
