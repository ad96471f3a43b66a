"""Which records become documents: the gates of one source, applied one record at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from biomedllama_cli.corpus.document import Dropped, Metadata, Record
from biomedllama_cli.corpus.licences import choose_refusal

SUBSETS: dict[str, frozenset[str]] = {
    "pubmed-abstracts": frozenset({"PubMed Abstracts"}),
    "pubmed-central": frozenset({"PubMed Central"}),
    "pubmed": frozenset({"PubMed Abstracts", "PubMed Central"}),
}
_RETRACTED = ("retraction_notice", "retracted")


class LanguageJudge(Protocol):
    """Tells whether a text is in a wanted language."""

    def find_problem(self, text: str, declared: str | None) -> str | None:
        """Return a reason to drop the text, or None."""


class QualityJudge(Protocol):
    """Tells whether a text is fit to be trained on."""

    def find_problem(self, text: str) -> str | None:
        """Return a reason to drop the text, or None."""


@dataclass(frozen=True)
class Gate:
    """What one source keeps.

    Attributes:
        subset: names in `meta.pile_set_name` to keep, or None for all.
        licences: what documents must permit, or None where the source states no licences.
        no_derivatives: what to do with NoDerivatives licences.
        drop_retracted: whether retracted articles and the notices go.
        drop_historical_ocr: whether machine-read scans go.
        language: judge of the language, or None for no filter.
        quality: judge of the quality, or None for no filter.
    """

    subset: frozenset[str] | None = None
    licences: Literal["commercial", "noncommercial", "all"] | None = None
    no_derivatives: Literal["drop", "keep"] = "drop"
    drop_retracted: bool = False
    drop_historical_ocr: bool = False
    language: LanguageJudge | None = None
    quality: QualityJudge | None = None

    def is_permitted(self, metadata: Metadata | None) -> bool:
        """Tell whether a document's own licence permits training; False where the source states none."""
        return self.licences is not None and metadata is not None and self._refuse(metadata) is None

    def find_reason(self, record: Record) -> str | None:
        """Return the reason to leave a record out, or None."""
        if self.subset is not None and record.subset not in self.subset:
            return "other_subset" if record.subset is not None else "no_subset_named"
        if not record.text or record.text.isspace():
            return "empty_text"
        if record.metadata is not None:
            reason = self._find_metadata_reason(record.metadata)
            if reason is not None:
                return reason
        declared = record.metadata.language if record.metadata else None
        reason = self.language.find_problem(record.text, declared) if self.language else None
        if reason is None and self.quality:
            reason = self.quality.find_problem(record.text)
        return reason

    def decide(self, record: Record) -> Record | Dropped:
        """Return the record, or why it is not wanted."""
        reason = self.find_reason(record)
        return record if reason is None else drop_record(record, reason)

    def _find_metadata_reason(self, metadata: Metadata) -> str | None:
        if self.drop_retracted:
            for flag in _RETRACTED:
                if flag in metadata.flags:
                    return flag
        if self.drop_historical_ocr and "historical_ocr" in metadata.flags:
            return "historical_ocr"
        return self._refuse(metadata)

    def _refuse(self, metadata: Metadata) -> str | None:
        if self.licences is None:
            return None
        if "licence_conflict" in metadata.flags and self.licences != "all":
            return "licence_conflict"
        return choose_refusal(metadata.licence, gate=self.licences, no_derivatives=self.no_derivatives)


def drop_record(record: Record, reason: str) -> Dropped:
    """Return a readable record as dropped, with the beginning of its text as an example."""
    return Dropped(reason, record.where, "", record.metadata, record.text[:1000])
