"""Where the weights of a checkpoint come from: run by run, down to the model that somebody else published."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.engine.saved_runs import CHECKPOINTS, PREFIX, REPORT_FILE, SETTINGS_FILE, name_checkpoint
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.hub import offline_where_unreachable
from biomedllama_cli.models.identity import locate_model
from biomedllama_cli.models.names import is_path
from biomedllama_cli.models.scratch import SCRATCH_PREFIX
from biomedllama_cli.recipes.export_corpora import count_passes, list_corpora, open_corpora

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_NOTICES = re.compile(r"(?i)(licen[cs]e|notice|copying|copyright|use[ _-]?policy|acceptable[ _-]?use)")
_NOTICE_BYTES = 2**20
"""A notice that is larger is none, and so is a card."""
_MOST_NOTICES = 50
_LONGEST_CHAIN = 20


@dataclass(frozen=True)
class Stage:
    """One training run that the weights went through.

    Attributes:
        command: `pretrain`, `finetune` or `instruct`.
        run_folder: of the run.
        step: of the checkpoint that went on from there.
        card: the card that tuning left beside the weights, with the licences of its examples; None where it left none.
        model: what the run started from.
        command_line: that started it.
        versions: of the software.
        report: the run's report, empty where it has none or is of another checkpoint.
        corpora: of `pretrain`, those that are still at hand, by folder.
        missing: corpora that are not.
        passes: over each source up to the checkpoint, by corpus folder and name; empty where that is not known.
    """

    command: str
    run_folder: Path
    step: int
    card: Path | None
    model: str
    command_line: str
    versions: dict[str, str]
    report: dict[str, Any]
    corpora: dict[Path, CorpusManifest] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    passes: dict[tuple[Path, str], float] = field(default_factory=dict)

    @property
    def licence(self) -> str | None:
        """Return the licence that its examples ask for, or None where that is not said."""
        return None if self.card is None else read_licence(self.card)


@dataclass(frozen=True)
class BaseModel:
    """The model at the beginning.

    Attributes:
        source: as the first run names it.
        is_scratch: random weights.
        licence_header: what the header of its card says of the licence, by the names that hubs give it.
        notices: its licence and notice files, by name.
    """

    source: str
    is_scratch: bool
    licence_header: Mapping[str, str] = field(default_factory=dict)
    notices: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def licence(self) -> str | None:
        """Return its licence in a word, or None where that is not known."""
        return name_licence(self.licence_header)


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
    """Follow a checkpoint back through the runs that made it.

    Raises:
        DataError: a run does not say how it was made.
    """
    stages: list[Stage] = []
    source = str(checkpoint)
    while (place := find_run(source)) is not None and len(stages) < _LONGEST_CHAIN:
        stage = read_stage(*place, Path(source).expanduser())
        stages.insert(0, stage)
        source = stage.model
    return Origin(read_base(source), tuple(stages))


def find_run(source: str) -> tuple[Path, int] | None:
    """Return the run folder and the step of a checkpoint, or of merged adapters; None where a model is neither."""
    folder = Path(source).expanduser().resolve()  # of a relative path, or of a link such as `latest`
    run, checkpoint = folder.parent.parent, folder.name
    if folder.parent.name != CHECKPOINTS:
        run, report = folder.parent, _read_report(folder.parent)
        if Path(str(report.get("merged"))).name != folder.name:
            return None
        checkpoint = Path(str(report.get("checkpoint"))).name
    step = checkpoint.removeprefix(PREFIX)
    if not checkpoint.startswith(PREFIX) or not step.isdecimal() or not (run / SETTINGS_FILE).is_file():
        return None
    return run, int(step)


def _read_report(run: Path) -> dict[str, Any]:
    try:
        report = json.loads((run / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def read_stage(run: Path, step: int, folder: Path) -> Stage:
    """Read what a run folder says of its run.

    Args:
        run: the run folder.
        step: of the checkpoint.
        folder: with the weights: the checkpoint, or the adapters merged.

    Raises:
        DataError: it does not say how it was made.
    """
    try:
        saved = json.loads((run / SETTINGS_FILE).read_text(encoding="utf-8"))
        settings, job, versions = (dict(saved.get(name, {})) for name in ("settings", "job", "versions"))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{run / SETTINGS_FILE} cannot be read, so where the weights come from is not known: {error}.",
            "Export needs the run folder as its run left it.",
        ) from error
    report, start = _read_report(run), _find_start(run, settings)
    names, continued = list_corpora(settings, report), _find_continued(run, settings, start)
    corpora, missing = open_corpora({name: Path(_find_again(name, start)) for name in names})
    checkpoint, earlier = name_checkpoint(run, step), Path(continued) if continued else None
    return Stage(
        command=str(job.get("command", "pretrain")),
        run_folder=run,
        step=step,
        card=folder / CARD_FILE if is_paper(folder / CARD_FILE, folder) else None,
        model=continued or _find_again(str(job.get("model") or settings.get("model") or ""), start),
        command_line=str(saved.get("command", "")),
        versions=versions,
        report=report if Path(str(report.get("checkpoint"))).name == checkpoint.name else {},
        corpora=corpora,
        missing=missing,
        passes={} if missing else count_passes(corpora, checkpoint, earlier),
    )


def _find_start(run: Path, settings: Mapping[str, Any]) -> Path | None:
    """Return the folder that a run was started in, as far as its own place tells it."""
    place = Path(settings.get("output_dir") or Path(settings.get("workspace") or ".", "runs", run.name))
    for folder in (run, run.parent):  # runs of several seeds have a folder each
        if not place.is_absolute() and folder.parts[-len(place.parts) :] == place.parts:
            return Path(*folder.parts[: -len(place.parts)])
    return None


def _find_continued(run: Path, settings: Mapping[str, Any], start: Path | None) -> str | None:
    """Return the checkpoint of another run that a run goes on from, be it there any more or not; None without one."""
    name = str(settings.get("resume"))
    places = (name, *([] if start is None else [str(start / name)]))
    found = {place: find_run(place) for place in places}
    return next((place for place, there in found.items() if there is not None and there[0] != run), None)


def _find_again(name: str, start: Path | None) -> str:
    """Return the name of a model or corpus for who stands elsewhere than its run was started."""
    return str(start / name) if name and start is not None and (start / name).exists() else name


def read_base(source: str) -> BaseModel:
    """Read licence and notices of the model at the beginning, from its folder or from the hub and its cache."""
    if source.startswith(SCRATCH_PREFIX):
        return BaseModel(source, is_scratch=True)
    folder = _find_base_folder(source)
    if folder is None or folder.is_file():
        return BaseModel(source, is_scratch=False)
    return BaseModel(
        source,
        is_scratch=False,
        licence_header=read_licence_header(folder / CARD_FILE),
        notices={path.name: path.read_bytes() for path in list_notices(folder)},
    )


def list_notices(folder: Path) -> list[Path]:
    """Return the licence and notice files of a model; none that a link brings in from somewhere else."""
    # The hub's cache is links itself, from snapshots/COMMIT/FILE into blobs/.
    home = folder.resolve()
    home = home.parent.parent if home.parent.name == "snapshots" else home
    named = [path for path in sorted(folder.iterdir()) if _NOTICES.match(path.stem)]
    found = [path for path in named if is_paper(path, home)]
    if len(found) > _MOST_NOTICES:
        logger.warning("%s has very many notices: %s and others are left out", folder, found[_MOST_NOTICES])
    return found[:_MOST_NOTICES]


def is_paper(path: Path, home: Path) -> bool:
    """Return whether a card or notice is there and may be passed on: no link out of `home`, and no larger than one."""
    if not path.is_file():
        return False
    if path.resolve().is_relative_to(home.resolve()) and path.stat().st_size <= _NOTICE_BYTES:
        return True
    logger.warning("%s is left out: it is a link out of its folder, or larger than a text to read", path)
    return False


def _find_base_folder(source: str) -> Path | None:
    if source and Path(source).expanduser().exists():
        return locate_model(source, None)
    if not source or is_path(source):
        logger.warning("the base model %s is not at hand: its licence and notices are not known", source)
        return None
    from huggingface_hub import snapshot_download

    starts = ("license", "licence", "notice", "copying", "copyright", "use", "acceptable")
    in_any_case = ["".join(f"[{letter}{letter.upper()}]" for letter in start) + "*" for start in starts]
    try:
        with offline_where_unreachable():
            return Path(snapshot_download(source, allow_patterns=[CARD_FILE, *in_any_case]))
    except Exception as error:  # the hub client has a type for each: none of them may cost the export
        logger.warning("licence and notices of %s are not to be had: %s", source, str(error).split("\n")[0])
    try:
        return locate_model(source, None)
    except ValueError:  # no name that the hub could have
        return None


def read_licence(card: Path) -> str | None:
    """Return the licence in the header of a model card in a word, or None where it has none."""
    return name_licence(read_licence_header(card))


def name_licence(header: Mapping[str, str]) -> str | None:
    """Return a licence in a word.

    >>> name_licence({"license": "other", "license_name": "llama"}), name_licence({"license": "mit"})
    ('llama', 'mit')
    """
    names = [header[name] for name in ("license", "license_name") if name in header]
    return " / ".join(name for name in names if name != "other") or (names[0] if names else None)


def read_licence_header(card: Path) -> dict[str, str]:
    """Return what the header of a model card says of its licence, empty where it says nothing."""
    try:
        if card.stat().st_size > _NOTICE_BYTES:
            return {}
        text = card.read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(header, dict):
        return {}
    several = header.get("license")
    if isinstance(several, list) and all(isinstance(name, str) for name in several):
        header |= {"license": "other", "license_name": ", ".join(several)}
    # Text alone: lists in lists that name each other become gigabytes when they are written out.
    names = ("license", "license_name", "license_link")
    return {name: header[name] for name in names if isinstance(header.get(name), str) and header[name]}
