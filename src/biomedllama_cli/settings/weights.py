"""Weights of sources, as `--weight NAME=NUMBER` gives them."""

from __future__ import annotations

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.settings.suggest import suggest

MAX_WEIGHT = 1000


def parse_weights(field: str, values: tuple[str, ...], names: set[str]) -> dict[str, float]:
    """Return passes per epoch by source.

    Args:
        field: the setting, for messages.
        values: NAME=NUMBER each.
        names: the sources there are.

    Raises:
        SettingsError: a value is not NAME=NUMBER, or names no source.

    >>> parse_weights("weight", ("pmc=0.5",), {"pmc", "pubmed"})
    {'pmc': 0.5}
    """
    example = f"Give NAME=NUMBER, such as --weight {min(names, default='NAME')}=2."
    weights: dict[str, float] = {}
    for value in values:
        name, equals, number = value.rpartition("=")
        if not equals:
            raise SettingsError(f"{field} = {value}: it is not NAME=NUMBER.", example)
        if name not in names:
            raise SettingsError(
                f"{field} = {value}: {name!r} is not among the sources {', '.join(sorted(names))}.",
                suggest(name, sorted(names)) or example,
            )
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight <= MAX_WEIGHT:
            raise SettingsError(
                f"{field} = {value}: the weight must be a number above 0 and up to {MAX_WEIGHT}.",
                f"It says how often one epoch reads the source: --weight {name}=2.",
            )
        weights[name] = weight
    return weights
