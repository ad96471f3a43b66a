"""The YAML at the head of a data card, which dataset hubs read."""

from __future__ import annotations

import yaml

from biomedllama_cli.corpus.card_counts import Counts
from biomedllama_cli.corpus.card_text import shorten
from biomedllama_cli.corpus.manifest import CorpusManifest

_HUB_LICENCES = {"CC0": "cc0-1.0"}
_COMMONS = "cc"  # the hub's name for the family: the version is stated article by article
_OTHER = "other"


def render_header(manifest: CorpusManifest, counts: Counts) -> list[str]:
    """Return the lines of the header and an empty one."""
    licences = {row.kind[1] for row in counts.breakdowns["licence"]}
    codes = {
        _HUB_LICENCES.get(str(name), _COMMONS if str(name).startswith("CC ") else _OTHER) for name in licences
    }
    languages = {str(row.kind[0]) for row in counts.breakdowns["language"] if row.kind[0]}
    wanted = languages or set(manifest.settings.get("selection", {}).get("language", ())) or {"en"}
    header = {
        "pretty_name": shorten(manifest.name, 100),
        "license": sorted(codes) or [_OTHER],
        "language": sorted(
            code for code in wanted if code.isascii() and code.isalpha() and len(code) in (2, 3)
        ),
        "size_categories": [choose_size_category(manifest.documents.kept)],
        "task_categories": ["text-generation"],
        "tags": ["biology", "medical", "biomedical", "continued-pretraining", "tokenized"],
    }
    return ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def choose_size_category(documents: int) -> str:
    """Return the hub's name for a number of documents.

    >>> choose_size_category(999), choose_size_category(1000), choose_size_category(3_000_000)
    ('n<1K', '1K<n<10K', '1M<n<10M')
    """
    names = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    above = sum(documents >= 10**power for power in range(3, 13))
    if above == 0:
        return "n<1K"
    return "n>1T" if above == len(names) else f"{names[above - 1]}<n<{names[above]}"
