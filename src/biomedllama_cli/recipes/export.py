"""`biomedllama export`: a plain transformers folder of a checkpoint, with a model card."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from biomedllama_cli.corpus.card import CARD_FILE as DATA_CARD_FILE
from biomedllama_cli.corpus.disk import explain_full_disk
from biomedllama_cli.corpus.durable import flush_folder, flush_path, name_temporary
from biomedllama_cli.engine.checkpoint import load_progress
from biomedllama_cli.engine.saved_runs import MARKER, find_newest_result, find_result, name_checkpoint
from biomedllama_cli.errors import DataError, OutputError, SettingsError
from biomedllama_cli.models.identity import hash_weights
from biomedllama_cli.models.load import load_model, load_text_config
from biomedllama_cli.models.permissions import share_as_umask_says
from biomedllama_cli.models.precision import DTYPES
from biomedllama_cli.recipes.export_card import (
    NOTICES_FOLDER,
    list_base_lines,
    render_model_card,
)
from biomedllama_cli.recipes.export_origin import CARD_FILE, Origin, find_run, is_paper, trace_origin
from biomedllama_cli.settings.export import ExportSettings

logger = logging.getLogger(__name__)

_TOKENIZER = re.compile(r".*\.(json|jinja|model|txt|tiktoken)")
_NO_TOKENIZER = re.compile(r".*\.index\.json|(generation_|adapter_)?config\.json|base_model\.json")
TUNING_CARD_FILE = "TUNING_CARD.md"


class ExportReport(BaseModel):
    """What was made, or with `dry_run` would be."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    schema_version: str = "biomedllama.export/1"
    """Changes when a reader of this report would have to."""
    status: Literal["exported", "would export"]
    """What was done."""
    checkpoint: Path
    """Where the weights come from."""
    folder: Path
    """A plain transformers folder."""
    dtype: str
    """Type of the weights."""
    step: int
    """Optimizer steps of the last run."""
    base_model: str
    """The model at the beginning of all runs."""
    base_licence: str | None
    """Its licence as its card says; None where that was not found, or there is no such model."""
    notices: list[str]
    """Its licence and notice files, copied beside the weights."""
    data_cards: list[str]
    """Cards of the corpora and of what it was tuned on, copied beside the weights."""
    sha256: str | None = None
    """One hash over the weight files."""
    files: dict[str, int] = {}
    """Size of every file (in bytes)."""
    base_lines: list[str]
    """What is to be known of the base model."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        size = sum(self.files.values())
        head = "Would export" if self.status == "would export" else "Exported"
        lines = [
            f"{head} {self.checkpoint} (step {self.step}) as {self.dtype} to {self.folder}.",
            *self.base_lines,
        ]
        if self.status == "would export":
            return lines
        return [
            *lines,
            f"{len(self.files)} files, {size / 1e6:,.1f} MB; SHA-256 of the weights {self.sha256}",
            f"Read {self.folder / CARD_FILE} before you pass it on.",
            f"Next: biomedllama evaluate --model {self.folder} --task medqa",
        ]


def export(settings: ExportSettings, *, dry_run: bool = False) -> ExportReport:
    """Write the weights of a checkpoint as a plain transformers folder.

    Raises:
        SettingsError: no folder is given.
        DataError: there is no such checkpoint, or it is not complete.
        ModelError: its weights cannot be read.
        OutputError: the folder is not empty or cannot be written.
    """
    if settings.folder is None:
        raise SettingsError(
            "FOLDER is missing: where the model shall be written.", "biomedllama export CHECKPOINT FOLDER"
        )
    checkpoint, folder = find_source(settings), settings.folder.expanduser()
    if not (checkpoint / MARKER).is_file():
        raise DataError(
            f"CHECKPOINT {checkpoint} is not a complete checkpoint of a run.",
            "Give a run folder, or one such as RUN/checkpoints/step-00001000 that holds a file COMPLETE.",
        )
    progress = load_progress(checkpoint, "CHECKPOINT")
    check_folder(folder)
    folder = folder.resolve()  # that of `.` has a name
    load_text_config(str(checkpoint))  # refuses what is no model before anything is read
    origin = trace_origin(checkpoint)
    report = ExportReport(
        status="would export",
        checkpoint=checkpoint,
        folder=folder,
        dtype=settings.dtype,
        step=progress.step,
        base_model=origin.base.source,
        base_licence=origin.base.licence,
        notices=sorted(origin.base.notices),
        data_cards=sorted(name_cards(origin).values()),
        base_lines=list_base_lines(origin.base),
    )
    if dry_run:
        return report
    with explain_full_disk(folder.parent):
        write_folder(checkpoint, folder, origin, dtype=settings.dtype, name=settings.name or folder.name)
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return report.model_copy(update={"status": "exported", "files": files, "sha256": hash_weights(folder)})


def find_source(settings: ExportSettings) -> Path:
    """Return the checkpoint: the one given, that of a run folder, else the newest of the workspace.

    Raises:
        DataError: there is none.
    """
    if settings.checkpoint is None:
        found = find_newest_result(settings.workspace)
        if found is None:
            raise DataError(
                f"No checkpoint was given, and the workspace {settings.workspace.resolve()} holds none.",
                "Give one: biomedllama export RUN/checkpoints/step-... FOLDER",
            )
        logger.info("no checkpoint was given: taking the newest of the workspace, %s", found)
    else:
        given = settings.checkpoint.expanduser()
        found = given if (given / MARKER).is_file() else find_result(given) or given
    place = find_run(str(found))
    # Of adapters that were merged, the checkpoint they were merged from: it knows its step.
    return found if place is None or (found / MARKER).is_file() else name_checkpoint(*place)


def check_folder(folder: Path) -> None:
    """Check that a folder can be made.

    Raises:
        OutputError: it holds something, or is a file.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"FOLDER {folder} is there already.", "Give a new folder, or remove that one.")


def write_folder(checkpoint: Path, folder: Path, origin: Origin, *, dtype: str, name: str) -> None:
    """Write everything under a temporary name, and rename it when it is whole and on the disk."""
    temporary = name_temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        load_model(str(checkpoint), dtype=DTYPES[dtype]).save_pretrained(temporary)
        copy_tokenizer(checkpoint, temporary)
        write_papers(temporary, origin, dtype=dtype, name=name)
        share_as_umask_says(temporary)
        flush_folder(temporary)
        if folder.is_dir():
            folder.rmdir()
        temporary.rename(folder)
        flush_path(folder.parent)
    except OSError as error:
        raise OutputError(f"FOLDER {folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_tokenizer(checkpoint: Path, folder: Path) -> None:
    """Copy the tokenizer's files and the chat template, which is a file of its own or stands in a JSON file.

    No link is followed and nothing is copied that could run: a checkpoint of ours has neither.
    """
    for path in sorted(checkpoint.iterdir()):
        if path.is_symlink() or not path.is_file() or not _TOKENIZER.fullmatch(path.name):
            continue
        if _NO_TOKENIZER.fullmatch(path.name):
            continue
        if not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)


def name_cards(origin: Origin) -> dict[Path, str]:
    """Return the names beside the model of the cards of its corpora and of its tuning, for those that have one."""
    corpora = [folder / DATA_CARD_FILE for stage in origin.stages for folder in stage.corpora]
    names: dict[Path, str] = {}
    for first, cards in (
        (DATA_CARD_FILE, [card for card in corpora if is_paper(card, card.parent)]),
        (TUNING_CARD_FILE, [stage.card for stage in origin.stages if stage.card is not None]),
    ):
        stem = Path(first).stem
        unique = enumerate(dict.fromkeys(cards))
        names |= {card: f"{stem}{f'-{number}' if number else ''}.md" for number, card in unique}
    return names


def write_papers(folder: Path, origin: Origin, *, dtype: str, name: str) -> None:
    """Write the model card, the cards of its data, and the notices of the base model."""
    cards = name_cards(origin)
    for card, copy in cards.items():
        shutil.copy(card, folder / copy)
    if origin.base.notices:
        notices = folder / NOTICES_FOLDER
        notices.mkdir()
        for notice, content in origin.base.notices.items():
            (notices / notice).write_bytes(content)
    text = render_model_card(origin, name=name, dtype=dtype, cards=cards)
    (folder / CARD_FILE).write_text(text, encoding="utf-8", errors="replace")
