"""Which models are evaluated, and where their results go; decided before anything heavy is loaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from biomedllama_cli.engine.saved_runs import find_newest_result, find_result
from biomedllama_cli.errors import ModelError
from biomedllama_cli.evaluation.journal import find_in_journals
from biomedllama_cli.evaluation.output import RESULTS_FILE
from biomedllama_cli.models.adapter_folder import find_adapter
from biomedllama_cli.models.gguf import find_gguf, read_gguf
from biomedllama_cli.models.names import is_path
from biomedllama_cli.settings.evaluate import EvaluateSettings

logger = logging.getLogger(__name__)

SCRATCH_PREFIX = "scratch:"  # of models.scratch, which loads transformers


def find_models(settings: EvaluateSettings) -> list[str]:
    """Return the models given (of a run folder what it has to show: its best or newest checkpoint), else the newest.

    Raises:
        ModelError: none is given and the workspace has no checkpoint, or a given one cannot be there.
    """
    if settings.model:
        sources = [find_result_of_run(source) for source in dict.fromkeys(settings.model)]
        for source in sources:
            check_source(source)
            if not Path(source).expanduser().exists():
                logger.info(
                    "model: %s is no folder here: it is taken as a hub id, and looked up when it is loaded",
                    source,
                )
        return sources
    checkpoint = find_newest_result(settings.workspace)
    if checkpoint is None:
        raise ModelError(
            f"no model was given, and the workspace {settings.workspace.resolve()} holds no checkpoint",
            "Give --model (a hub id, a folder, a checkpoint, a .gguf file), or train one with `biomedllama pretrain`.",
        )
    logger.info("no model was given: taking the newest checkpoint of the workspace, %s", checkpoint)
    return [str(checkpoint)]


def choose_folders(settings: EvaluateSettings, sources: Sequence[str]) -> list[Path]:
    """Return where the results of each model go: below `output_dir` where there are several."""
    names = [model_name(source) for source in sources]
    for place, name in enumerate(names):
        if name in names[:place]:
            names[place] = f"{name}-{place + 1}"
    if settings.output_dir is not None:
        if len(sources) == 1:
            return [settings.output_dir]
        return [settings.output_dir / name for name in names]
    now = datetime.now(UTC)
    return [settings.workspace / "runs" / f"evaluate-{name}-{now:%Y%m%dT%H%M%SZ}" for name in names]


def model_name(source: str) -> str:
    """Return a short name of a model for folders: of a checkpoint its run and step.

    >>> model_name("runs/mine/checkpoints/step-00000433"), model_name("org/model"), model_name("scratch:tiny")
    ('mine-step-00000433', 'model', 'scratch-tiny')
    """
    parts = [part for part in Path(source).parts if part not in {"/", ".", "..", "checkpoints"}]
    kept = parts[-2:] if parts and parts[-1].startswith("step-") else parts[-1:]
    return "-".join(kept).replace(":", "-") or "model"


def was_interrupted_after(folder: Path) -> bool:
    """Tell whether a folder holds results of a command that was killed before its end.

    It may then be written again by the same command, which its journal tells once the model is known.
    """
    return any(holds_results_of(one, folder) for one in find_in_journals(folder.parent, written_key(folder)))


def written_key(folder: Path) -> str:
    """Return the journal's key of the piece that says when the results in a folder were made."""
    return f"written {folder.resolve()}"


def holds_results_of(created: str | None, folder: Path) -> bool:
    """Tell whether the results in a folder are those that were made at `created`."""
    try:
        content = json.loads((folder / RESULTS_FILE).read_bytes())
        return created is not None and content["created"] == created
    except (OSError, ValueError, KeyError, TypeError):
        return False


def refuse_gguf(source: str) -> None:
    """Refuse to train the model of a GGUF file.

    Raises:
        ModelError: it is one.
    """
    if find_gguf(source) is not None:
        raise ModelError(
            f"model: {source} is a GGUF file, whose weights were rounded to answer with: it is not trained further.",
            "Give the hub id or the transformers folder that it was made from.",
        )


def check_source(source: str) -> None:
    """Refuse a model that needs no look at the hub, and nothing heavy, to be refused.

    Raises:
        ModelError: it has no weights, is not there, is a GGUF file that is broken or of a kind that is not loaded, is
            an adapter without its base, or holds the runs of several seeds.
    """
    if source.startswith(SCRATCH_PREFIX):
        raise ModelError(
            f"model: {source} has random weights and no tokenizer, so there is nothing to evaluate",
            "Give a hub id, a model folder or a checkpoint; `biomedllama pretrain` trains this shape.",
        )
    if (file := find_gguf(source)) is not None:
        read_gguf(file)
        return
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ModelError(
            f"model: {source} is a file, not a folder", "Give a hub id, a model folder or a checkpoint."
        )
    if source.endswith(".gguf") and not folder.exists():
        raise ModelError(
            f"model: the file {source} does not exist.",
            "Give a file on this machine; `hf download OWNER/NAME FILE.gguf` fetches one of the hub's.",
        )
    if is_path(source) and not folder.is_dir():
        raise ModelError(
            f"model: the folder {source} does not exist", "Give a hub id, a model folder or a checkpoint."
        )
    if find_adapter(source) is None and not (folder / "config.json").is_file():
        _refuse_runs_of_seeds(source, folder)


def _refuse_runs_of_seeds(source: str, folder: Path) -> None:
    names = [path.name for path in folder.glob("seed-*") if (path / "checkpoints").is_dir()]
    if names:
        runs = [str(Path(source) / name) for name in sorted(names, key=lambda name: (len(name), name))]
        count = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
        raise ModelError(
            f"model: {source} holds the runs of {count}", f"Give one of them: {', '.join(runs)}."
        )


def find_result_of_run(source: str) -> str:
    """Return what a run folder has to show, its best or newest checkpoint; any other name of a model as it is."""
    folder = Path(source).expanduser()
    if not (folder / "checkpoints").is_dir():
        return source
    newest = find_result(folder)
    if newest is not None:
        logger.info("the model given is a run folder: taking %s", newest)
    return str(newest or source)
