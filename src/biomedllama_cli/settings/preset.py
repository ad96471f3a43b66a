"""Presets: named settings that come with the package, one YAML file each."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.files import parse_settings
from biomedllama_cli.settings.suggest import suggest


def list_presets(command: str) -> dict[str, str]:
    """Return the presets of a command: name -> description, sorted by name."""
    folder = files("biomedllama_cli.settings") / "presets" / command
    entries = folder.iterdir() if folder.is_dir() else ()
    names = sorted(entry.name.removesuffix(".yaml") for entry in entries)
    return {name: _read(command, name)["description"] for name in names}


def load_preset(command: str, name: str) -> dict[str, Any]:
    """Return the settings of a preset, as a nested mapping.

    Raises:
        SettingsError: the command has no such preset.
    """
    from biomedllama_cli.settings.leaves import TREES

    mine = list_presets(command)
    if name not in mine:
        all_mine = (
            f"The presets of {command} are {', '.join(mine)}." if mine else f"{command} has no presets."
        )
        others = [other for other in TREES if other != command and name in list_presets(other)]
        if others:
            raise SettingsError(
                f"--preset is {name!r}, but that is a preset of {others[0]}, not of {command}.", all_mine
            )
        hint = suggest(name, mine) or all_mine
        raise SettingsError(f"--preset is {name!r}, but {command} has no preset of that name.", hint)
    settings: dict[str, Any] = _read(command, name)["settings"]
    return settings


def _read(command: str, name: str) -> dict[str, Any]:
    path = files("biomedllama_cli.settings") / "presets" / command / f"{name}.yaml"
    content = parse_settings(path.read_text(encoding="utf-8"), f"preset {name}")
    assert content["command"] == command, f"preset {name} lies in the folder of {command}"
    return content
