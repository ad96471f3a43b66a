"""Settings files: strict YAML, refused when a key comes twice or belongs elsewhere."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from biomedllama_cli.errors import SettingsError


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, for which no tag makes Python objects; a key that comes twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key_node.value!r} comes twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_settings(text: str, name: str) -> dict[str, Any]:
    """Parse the text of a settings file.

    Args:
        text: the YAML.
        name: what messages call it.

    Raises:
        SettingsError: it is no YAML, no mapping, or names a key twice.
    """
    try:
        content = _UniqueKeyLoader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
        raise SettingsError(f"{name} is not valid YAML{where}: {problem}.") from error
    except RecursionError as error:
        raise SettingsError(f"{name} is not a settings file: it is nested too deeply.") from error
    except ValueError as error:  # such as the date 2024-99-99
        raise SettingsError(f"{name} is not valid YAML: {error}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"{name} must be a mapping of settings, not {type(content).__name__}.",
            "A line of it looks like `seed: 1`.",
        )
    return content


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read and parse a settings file.

    Raises:
        SettingsError: it cannot be read or parsed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise SettingsError(f"--config is {path}, but there is no such file.") from error
    except OSError as error:
        raise SettingsError(f"--config is {path}, but it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--config is {path}, but it is not UTF-8 text (byte {error.start}).") from error
    return parse_settings(text, str(path))
