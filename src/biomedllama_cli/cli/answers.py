"""Answers a command gives without running: its presets, and its settings with their origins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from biomedllama_cli.settings.resolve import Resolved


@dataclass(frozen=True)
class PresetsAnswer:
    """The presets of a command."""

    command: str
    presets: dict[str, str]

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return names and descriptions."""
        return {"schema_version": "biomedllama.presets/1", "command": self.command, "presets": self.presets}

    def lines(self) -> list[str]:
        """Return one line per preset."""
        if not self.presets:
            return [f"{self.command} has no presets."]
        width = max(len(name) for name in self.presets)
        return [f"{name:<{width}}  {description}" for name, description in self.presets.items()]


@dataclass(frozen=True)
class ConfigAnswer:
    """The resolved settings of a command and where each value came from."""

    command: str
    resolved: Resolved[Any]

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the tree and, by dotted path, the origins."""
        return {
            "schema_version": "biomedllama.config/1",
            "command": self.command,
            "settings": self.resolved.settings.model_dump(mode=mode),
            "origins": self.resolved.origins,
        }

    def lines(self) -> list[str]:
        """Return a YAML file that `--config` takes back, with the origins as comments."""
        values: dict[str, Any] = self.resolved.settings.model_dump(mode="json")
        rows: list[tuple[str, str]] = [(f"command: {self.command}", "")]
        for name, value in values.items():
            if isinstance(value, dict):
                rows.append((f"{name}:", ""))
                rows += [
                    (f"  {leaf}: {_to_yaml(each)}", self.resolved.origins[f"{name}.{leaf}"])
                    for leaf, each in value.items()
                ]
            else:
                rows.append((f"{name}: {_to_yaml(value)}", self.resolved.origins[name]))
        width = min(max(len(text) for text, origin in rows if origin), 48)
        return [f"{text:<{width}}  # {origin}" if origin else text for text, origin in rows]


def _to_yaml(value: Any) -> str:
    """Write one value on one line, the way YAML reads it back.

    >>> _to_yaml(3e-05), _to_yaml(["medqa"]), _to_yaml(None), _to_yaml("no")
    ('3.0e-05', '[medqa]', 'null', "'no'")
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
