"""Why a document that was tokenised is left out of the corpus after all: one byte for each document."""

from __future__ import annotations

from types import MappingProxyType

ALIVE = 0
SUPERSEDED_VERSION = 1
DELETED_CITATION = 2
RETRACTED = 3
ABSTRACT_WITHOUT_LICENCE = 4
CONTAMINATED_TWIN = 5
FULL_TEXT_KEPT = 6
EXACT_DUPLICATE = 7
NEAR_DUPLICATE = 8
REPLAY_SURPLUS = 9

NAMES = MappingProxyType(
    {
        SUPERSEDED_VERSION: "superseded_version",
        DELETED_CITATION: "deleted_citation",
        RETRACTED: "retracted",
        ABSTRACT_WITHOUT_LICENCE: "abstract_without_licence",
        CONTAMINATED_TWIN: "contaminated_twin",
        FULL_TEXT_KEPT: "full_text_kept",
        EXACT_DUPLICATE: "exact_duplicate",
        NEAR_DUPLICATE: "near_duplicate",
        REPLAY_SURPLUS: "replay_surplus",
    }
)
"""Code of a drop reason -> the snake_case name under which the manifest counts it, in order of precedence."""
