"""Settings from environment variables, with names checked: a misspelt one is an error, not a no-op."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.base import Settings
from biomedllama_cli.settings.leaves import ENVIRONMENT_PREFIX, TREES, iter_leaves, load_tree
from biomedllama_cli.settings.suggest import suggest


def read_environment(tree: type[Settings], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the environment sets, as a nested mapping of this tree's sections.

    A name that only another command knows is left alone, so that one environment serves all commands;
    an empty variable counts as not set.

    Raises:
        SettingsError: a variable with our prefix is no setting of any command.
    """
    given = {
        name: value for name, value in environment.items() if name.startswith(ENVIRONMENT_PREFIX) and value
    }
    if not given:
        return {}
    mine = {leaf.environment for leaf in iter_leaves(tree)}
    unknown = sorted(set(given) - mine)
    if unknown:
        _check_names(unknown)
    return _read_with_pydantic(tree, {name: value for name, value in given.items() if name in mine})


def _check_names(names: list[str]) -> None:
    known = {leaf.environment for command in TREES for leaf in iter_leaves(load_tree(command))}
    for name in names:
        if name not in known:
            near = suggest(
                name.removeprefix(ENVIRONMENT_PREFIX),
                [each.removeprefix(ENVIRONMENT_PREFIX) for each in known],
            )
            raise SettingsError(
                f"The environment variable {name} is not a setting of any command.",
                near.replace("Did you mean ", f"Did you mean {ENVIRONMENT_PREFIX}"),
            )


def _read_with_pydantic(tree: type[Settings], given: dict[str, str]) -> dict[str, Any]:
    # Imported here: it takes 0.2 s, and most runs and every --help have no such variable.
    from pydantic_settings import EnvSettingsSource

    class Source(EnvSettingsSource):
        """pydantic-settings' reader, over the names checked above instead of os.environ."""

        def _load_env_vars(self) -> Mapping[str, str | None]:
            return {name.lower(): value for name, value in given.items()}

        def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
            """Read several values as a JSON list, and anything else as one value."""
            try:
                decoded = json.loads(value)
            except ValueError:
                return [value]
            return decoded if isinstance(decoded, list) else [value]

    source = Source(
        tree,  # type: ignore[arg-type]  # any pydantic model serves; BaseSettings would read by itself
        case_sensitive=False,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )
    return source()
