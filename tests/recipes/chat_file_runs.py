"""Runs of `chat --file` with tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_llama import TinyModel

from biomedllama_cli.recipes.chat_file import answer_file
from biomedllama_cli.recipes.chat_load import Voice, load_voices
from biomedllama_cli.settings.chat import ChatSettings

METALS = ("iron", "zinc oxide", "tin", "a salt of copper", "lead", "mercury")


def write_questions(path: Path) -> Path:
    """Write fourteen questions, each longer than the one before."""
    records = [
        {
            "id": f"q{number}",
            "question": f"Which metal is number {number}? " + f"It is {METALS[number % 6]}. " * number,
        }
        for number in range(14)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def build_settings(model: TinyModel, file: Path, output: Path, **changes: Any) -> ChatSettings:
    content: dict[str, Any] = {
        "model": str(model.folder),
        "questions": {"file": file, "output": output, "batch_size": 2},
        "reply": {"max_new_tokens": 12, "temperature": 0.8},
        "compute": {"device": "cpu"},
    }
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) and name in content else value
    return ChatSettings.model_validate(content)


def load(settings: ChatSettings) -> list[Voice]:
    return load_voices([settings.model, *([settings.compare] if settings.compare else [])], settings)


def run(settings: ChatSettings, library: Any = None) -> Any:
    voices = load(settings)
    return answer_file(
        settings, [voice.speaker for voice in voices], [voice.facts for voice in voices], library
    )


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
