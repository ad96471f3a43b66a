"""What a checkpoint says of its tuning, so that whoever asks it later asks as it was taught."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

TUNING_FILE = "tuning.json"
SCHEMA_VERSION = "biomedllama.tuning/1"


@dataclass(frozen=True, slots=True)
class TuningOrigin:
    """How a model was tuned.

    Attributes:
        template: how conversations were written: as plain text, or in the model's own chat template.
        train_on: which of the assistant's turns carried loss: `all-turns` or `last-turn`.
        base: the model that was tuned, as it was given.
    """

    template: Literal["plain", "chat"]
    train_on: str
    base: str


def render_tuning_facts(facts: TuningOrigin) -> str:
    """Return the content of `tuning.json`, which lies in every checkpoint of a tuned model.

    >>> json.loads(render_tuning_facts(TuningOrigin("chat", "last-turn", "org/model")))["template"]
    'chat'
    """
    content = {"schema_version": SCHEMA_VERSION, **asdict(facts)}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_tuning_facts(folder: Path, facts: TuningOrigin) -> None:
    """Write `tuning.json` into the folder of a model."""
    (folder / TUNING_FILE).write_text(render_tuning_facts(facts), encoding="utf-8")


def read_tuning_facts(source: str) -> TuningOrigin | None:
    """Read what a model's folder says of its tuning.

    Fields that this version does not know are passed over; a file that says nothing readable is told in the log and
    counts as none, since a model can be used without it.

    Args:
        source: folder of the model; a hub id or `scratch:` has no such file.

    Returns:
        None where the folder says nothing.
    """
    path = Path(source).expanduser() / TUNING_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s); the model counts as not tuned", path, error)
        return None
    template = content.get("template") if isinstance(content, dict) else None
    if template not in ("plain", "chat"):
        logger.warning("%s names no template (plain or chat); the model counts as not tuned", path)
        return None
    return TuningOrigin(template, str(content.get("train_on", "")), str(content.get("base", "")))
