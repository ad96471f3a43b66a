"""A drawn mixture as lines for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from biomedllama_cli.instructions.licences import allows_any_use

if TYPE_CHECKING:
    from biomedllama_cli.instructions.manifest import MixtureManifest, SourceDraws

COLUMNS = (
    "source",
    "examples",
    "drawn",
    "unique",
    "passes",
    "target tokens",
    "realised",
    "expected",
    "published",
    "licence",
)
_TEXT_COLUMNS = (0, len(COLUMNS) - 1)


def list_lines(manifest: MixtureManifest) -> list[str]:
    """Return a table of realised against published shares, and what to know of the sources."""
    rows = [COLUMNS, *map(list_cells, manifest.sources)]
    restricted = name_restricted(manifest)
    left_out = ", ".join(each.name for each in manifest.left_out)
    kept_back = ", ".join(manifest.kept_back())
    return [
        f"Mixture {manifest.mixture}: {manifest.rows:,} rows, {manifest.epochs:g} x {manifest.draws:,}, "
        f"seed {manifest.seed}",
        *(f"  {line}" for line in _align(rows)),
        *([f"Draw against its shares: {describe_fit(manifest)}"] if manifest.degrees_of_freedom else []),
        f"Strictest licence: {manifest.strictest_licence}"
        + (f"; examples that may not be passed on: {kept_back}" if kept_back else ""),
        *([f"Restricted besides: {restricted}"] if restricted else []),
        *(
            f"Substitute: {source.name}: {source.substitute}"
            for source in manifest.sources
            if source.substitute
        ),
        *([f"Left out, their share went to the others: {left_out}"] if left_out else []),
    ]


def list_cells(source: SourceDraws) -> tuple[str, ...]:
    """Return the cells of one source, in the order of `COLUMNS`."""
    return (
        source.name + (" *" if source.substitute else ""),
        f"{source.examples:,}",
        f"{source.draws:,}",
        f"{source.unique_examples:,}",
        format_passes(source.passes),
        "-" if source.target_tokens is None else f"{source.target_tokens:,}",
        format_share(source.realised_share),
        format_share(source.expected_share),
        "-" if source.published_share is None else format_share(source.published_share),
        source.licence,
    )


def describe_fit(manifest: MixtureManifest) -> str:
    """Return the chi-square and the source farthest from its share; without degrees of freedom it says nothing."""
    cells = sum(1 for source in manifest.sources if source.expected_share or source.draws)
    joined = " (small sources are counted together)" if manifest.degrees_of_freedom + 1 < cells else ""
    farthest = max(manifest.sources, key=lambda source: abs(source.deviation))
    degrees = "degree" if manifest.degrees_of_freedom == 1 else "degrees"
    return (
        f"chi-square {manifest.chi_square:.1f} on {manifest.degrees_of_freedom} {degrees} of freedom{joined}, "
        f"p = {manifest.p_value:.3g}; farthest {farthest.name}, {farthest.deviation:+.1f} standard deviations"
    )


def name_restricted(manifest: MixtureManifest) -> str:
    """Return the sources that are less strict than the strictest and do not allow any use, or an empty string.

    Where the strictest licence is not known, these are the restrictions that are.
    """
    return ", ".join(
        f"{source.name} ({source.licence})"
        for source in manifest.sources
        if source.draws
        and source.licence_code != manifest.strictest_licence
        and not allows_any_use(source.licence)
    )


def format_share(share: float) -> str:
    """Return a fraction in percent, with more digits where it is small.

    >>> format_share(0.2145), format_share(0.00006), format_share(0.0004)
    ('21.45 %', '0.006 %', '0.040 %')
    """
    return f"{100 * share:.{2 if share >= 0.001 else 3}f} %"


def format_passes(passes: float) -> str:
    """Return passes with three significant digits.

    >>> format_passes(3.1612), format_passes(0.5), format_passes(12.6), format_passes(1234.0)
    ('3.16', '0.500', '12.6', '1,234')
    """
    return f"{passes:,.0f}" if passes >= 100 else f"{passes:#.3g}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in _TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
