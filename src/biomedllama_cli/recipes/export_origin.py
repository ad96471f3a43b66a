"""Where the weights of a checkpoint come from: run by run, down to the model that somebody else published."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from biomedllama_cli.corpus.manifest import CorpusManifest, load_corpus
from biomedllama_cli.engine.saved_runs import CHECKPOINTS, REPORT_FILE, SETTINGS_FILE, read_step
from biomedllama_cli.errors import UserError
from biomedllama_cli.models.hub import offline_where_unreachable
from biomedllama_cli.models.identity import locate_model
from biomedllama_cli.models.names import is_path
from biomedllama_cli.models.scratch import SCRATCH_PREFIX

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_NOTICES = re.compile(
    r"(licen[cs]e|notice|copying|copyright|use[ _-]?policy|acceptable[ _-]?use)", re.IGNORECASE
)
_NOTICE_BYTES = 2**20
"""A notice that is larger is none."""
_LONGEST_CHAIN = 20


@dataclass(frozen=True)
class Stage:
    """One training run that the weights went through.

    Attributes:
        command: `pretrain`, `finetune` or `instruct`.
        run_folder: of the run.
        step: of the checkpoint that went on from there.
        model: what the run started from.
        settings: all settings of the run.
        command_line: that started it.
        versions: of the software.
        report: the run's report, empty where it has none.
        corpora: of `pretrain`, those that are still at hand, by folder.
        missing: corpora that are not.
    """

    command: str
    run_folder: Path
    step: int
    model: str
    settings: dict[str, Any]
    command_line: str
    versions: dict[str, str]
    report: dict[str, Any]
    corpora: dict[Path, CorpusManifest] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class BaseModel:
    """The model at the beginning.

    Attributes:
        source: as the first run names it.
        is_scratch: random weights.
        licence: as its card says, or None.
        notices: its licence and notice files, by name.
    """

    source: str
    is_scratch: bool
    licence: str | None
    notices: dict[str, bytes]


@dataclass(frozen=True)
class Origin:
    """All of it.

    Attributes:
        base: the model at the beginning.
        stages: the runs since, the first one first.
    """

    base: BaseModel
    stages: tuple[Stage, ...]


def trace_origin(checkpoint: Path) -> Origin:
    """Follow a checkpoint back through the runs that made it."""
    stages: list[Stage] = []
    source, place = str(checkpoint), find_run(str(checkpoint))
    while place is not None and len(stages) < _LONGEST_CHAIN:
        run, step = place
        stage = read_stage(run, step)
        stages.insert(0, stage)
        source = stage.model
        place = find_run(source)
    return Origin(read_base(source), tuple(stages))


def find_run(source: str) -> tuple[Path, int] | None:
    """Return the run folder and the step of a checkpoint, or None where a model is none."""
    folder = Path(source).expanduser()
    if folder.parent.name != CHECKPOINTS or not (folder.parent.parent / SETTINGS_FILE).is_file():
        return None
    return folder.resolve().parent.parent, read_step(folder)


def read_stage(run: Path, step: int) -> Stage:
    """Read what a run folder says of its run."""
    saved = json.loads((run / SETTINGS_FILE).read_text(encoding="utf-8"))
    settings = saved.get("settings", {})
    try:
        report = json.loads((run / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    corpora: dict[Path, CorpusManifest] = {}
    missing = []
    for name in _list_corpora(settings, report):
        try:
            corpora[Path(name)] = load_corpus(Path(name)).manifest
        except UserError as error:
            logger.warning("the corpus %s is not at hand: %s", name, error.message)
            missing.append(name)
    return Stage(
        command=str(saved.get("job", {}).get("command", "pretrain")),
        run_folder=run,
        step=step,
        model=str(saved.get("job", {}).get("model") or settings.get("model") or ""),
        settings=settings,
        command_line=str(saved.get("command", "")),
        versions=dict(saved.get("versions", {})),
        report=report,
        corpora=corpora,
        missing=tuple(missing),
    )


def _list_corpora(settings: dict[str, Any], report: dict[str, Any]) -> list[str]:
    first = settings.get("corpus") or report.get("corpus")
    return [str(name) for name in (first, *settings.get("mix", ())) if name]


def read_base(source: str) -> BaseModel:
    """Read licence and notices of the model at the beginning, from its folder or from the hub and its cache."""
    if source.startswith(SCRATCH_PREFIX):
        return BaseModel(source, is_scratch=True, licence=None, notices={})
    folder = _find_base_folder(source)
    if folder is None or folder.is_file():
        return BaseModel(source, is_scratch=False, licence=None, notices={})
    notices = {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if _NOTICES.match(path.stem) and path.is_file() and path.stat().st_size <= _NOTICE_BYTES
    }
    return BaseModel(source, is_scratch=False, licence=read_licence(folder / CARD_FILE), notices=notices)


def _find_base_folder(source: str) -> Path | None:
    if not is_path(source) and not Path(source).expanduser().exists():
        from huggingface_hub import snapshot_download

        texts = [
            "README.md",
            *(f"{name}*" for name in ("LICENSE", "LICENCE", "NOTICE", "USE_POLICY", "COPYING")),
        ]
        try:
            with offline_where_unreachable():
                return Path(snapshot_download(source, allow_patterns=texts))
        except Exception as error:  # the hub client has a type for each: none of them may cost the export
            logger.warning(
                "licence and notices of %s are not to be had: %s", source, str(error).split("\n")[0]
            )
    return locate_model(source, None)


def read_licence(card: Path) -> str | None:
    """Return the licence in the header of a model card, or None where it has none."""
    try:
        text = card.read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return None
    if not isinstance(header, dict):
        return None
    names = [str(header[name]) for name in ("license", "license_name") if header.get(name)]
    return " / ".join(name for name in names if name != "other") or (names[0] if names else None)
