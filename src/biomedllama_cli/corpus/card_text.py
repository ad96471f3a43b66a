"""The words of a data card: what the rules were, what NLM asks for, and how foreign text is quoted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from biomedllama_cli.corpus.manifest import CorpusManifest

UNQUOTED = frozenset(
    (
        "abstract_without_licence",
        "licence_conflict",
        "no_derivatives_licence",
        "no_licence",
        "noncommercial_licence",
        "text_mining_only",
    )
)
"""Reasons to leave a document out that are reasons not to quote it either."""
REASONS: Mapping[str, str] = {
    "abstract_without_licence": "abstract whose article is not known to be under a licence that permits training",
    "bad_metadata": "metadata that cannot be read",
    "bad_version": "version that is no number",
    "broken_archive": "rest of a damaged archive",
    "broken_json": "no valid JSON",
    "broken_stream": "rest of a damaged file",
    "broken_xml": "no well-formed XML",
    "changed_since_inventory": "changed in the bucket after the inventory",
    "contaminated": "holds a benchmark item",
    "contaminated_twin": "abstract or article of a document that holds a benchmark item",
    "deleted_citation": "withdrawn by PubMed",
    "empty_text": "no text",
    "exact_duplicate": "the same text occurs earlier",
    "full_text_kept": "abstract of an article that is in the corpus itself",
    "historical_ocr": "scan of the 18th to 20th century, recognised by machine",
    "licence_conflict": "what the article says of its licence contradicts itself",
    "line_too_long": "longer than any paper",
    "lone_surrogate": "text that is no Unicode",
    "metadata_mismatch": "the article is not what its metadata says",
    "missing_text": "record without the field of its text",
    "near_duplicate": "nearly the same text occurs earlier",
    "no_abstract": "citation without an abstract",
    "no_article": "record of PubMed without an article",
    "no_derivatives_licence": "licence forbids derivatives",
    "no_licence": "no licence is stated",
    "no_pmid": "citation without a PMID",
    "no_subset_named": "part of The Pile is not named",
    "no_text": "article without any text",
    "no_xml": "no XML in the bucket",
    "noncommercial_licence": "licence forbids commercial use",
    "not_an_object": "record that is no JSON object",
    "not_utf8": "text that is not UTF-8",
    "other_language": "in another language",
    "other_subset": "another part of The Pile",
    "other_xml": "XML of another kind",
    "quality_bullets": "nearly all lines are bullets",
    "quality_ellipses": "many lines end in an ellipsis",
    "quality_few_letters": "many words without a letter",
    "quality_few_stop_words": "hardly any English stop word",
    "quality_frequent_phrase": "one phrase again and again",
    "quality_placeholder": "lorem ipsum",
    "quality_repeated_lines": "lines repeat",
    "quality_repeated_paragraphs": "paragraphs repeat",
    "quality_repeated_phrases": "phrases repeat",
    "quality_symbols": "many # or ellipses",
    "quality_too_short": "too few words",
    "quality_word_length": "words too short or too long on average",
    "record_too_large": "larger than any paper",
    "removed_from_bucket": "no longer in the bucket",
    "replay_surplus": "more general text than asked for",
    "retracted": "retracted article",
    "retraction_notice": "notice of a retraction",
    "superseded_version": "a later version is in the input",
    "text_mining_only": "licensed for text mining only",
    "text_not_a_string": "text that is no string",
    "truncated_archive": "rest of an archive that ends early",
    "truncated_stream": "rest of a file that ends early",
    "unreadable_refusal": "damaged note of an article that was not fetched",
    "unsafe_archive_member": "link, device or path out of its archive",
    "wrong_md5": "not the file that its MD5 is of",
    "xml_entity": "XML that defines entities of its own",
}
"""What a reason means; one that is missing here stands for itself."""
_GATES = {
    "commercial": "Licences: only articles whose licence permits commercial use (CC0, CC BY, CC BY-SA, public domain). "
    "Silence and contradiction count as no permission.",
    "noncommercial": "Licences: only articles whose licence permits at least non-commercial use. Silence and "
    "contradiction count as no permission. **A model trained on them is not for commercial use.**",
    "all": "Licences: **no gate.** The corpus may hold articles whose licence does not permit training.",
}
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_MARKDOWN = re.compile(r"[\\`*_\[\]|~$^=@]|^[#+-]|(?<=www)\.|:(?=//)")


def shorten(text: str, characters: int) -> str:
    r"""Return text on one line without control characters, cut to a number of characters.

    >>> shorten("one\ntwo\x00  three", 20), shorten("abcdef", 4), shorten("x\u202ey", 9)
    ('one two three', 'abc…', 'xy')
    """
    visible = "".join(
        " " if unicodedata.category(c) == "Cc" else "\ufffd" if unicodedata.category(c) == "Cs" else c
        for c in text[: 4 * characters]
        if c not in _BIDIRECTIONAL
    )
    line = " ".join(visible.split())
    return line if len(line) <= characters else line[: characters - 1] + "…"


def escape(text: str) -> str:
    r"""Return text that Markdown and HTML show as it is, on one line and inside a table cell.

    >>> escape("a|b <script> *c* & [d](e)\nf")
    'a\\|b &lt;script&gt; \\*c\\* &amp; \\[d\\](e) f'
    """
    marked = _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def list_notices(manifest: CorpusManifest) -> list[str]:
    """Return what whoever passes the corpus on has to say, by where it comes from."""
    names = {source.name for source in manifest.sources}
    notices = []
    if names & {"pubmed", "pmc", "pile"}:
        notices.append(
            "Data of PubMed and PubMed Central: courtesy of the U.S. National Library of Medicine (NLM). NLM does not "
            "endorse this corpus, and the corpus does not reflect the most current or accurate data available from NLM."
        )
    if "pubmed" in names:
        notices.append(
            "NLM claims no copyright in the abstracts of PubMed, but most are subject to the copyright of publishers "
            "or authors. Whoever passes them on or trains on them decides on that themselves."
        )
    if "pmc" in names:
        notices.append(
            "Articles of PubMed Central are under the licence of each: documents.parquet names it for every document, "
            "with PMCID, DOI and title for the attribution that all but CC0 ask for. They may be passed on only as "
            "these licences permit, and share-alike licences bind derived text."
        )
    if manifest.inventory is not None:
        notices.append(
            f"Articles were fetched by NLM's inventory of {manifest.inventory['date']} (SHA-256 "
            f"{manifest.inventory['sha256']}): {manifest.inventory['fetched']:,} of "
            f"{manifest.inventory['considered']:,} article versions considered."
        )
    if "pile" in names:
        notices.append(
            "Records of The Pile (Gao et al. 2020, arXiv:2101.00027) carry no licence of their own; the rights of the "
            "authors and publishers of each text are as in the original."
        )
    if "sample" in names:
        notices.append("The bundled sample is of PLOS articles under CC BY and CC0; see its NOTICE.md.")
    return notices


def list_rules(manifest: CorpusManifest) -> list[str]:
    """Return the policy that chose the documents, one sentence or two each, from the settings of the command."""
    selection: Mapping[str, Any] = manifest.settings.get("selection", {})
    names = {source.name for source in manifest.sources}
    rules = _list_licence_rules(selection, names)
    if names & {"pubmed", "pmc"}:
        rules.append(
            "Retractions: retracted articles and the notices are out, as far as the input tells of them."
            if selection.get("retracted", "drop") == "drop"
            else "Retractions: **retracted articles and the notices are kept.**"
        )
    return rules + _list_filter_rules(selection, names)


def _list_licence_rules(selection: Mapping[str, Any], names: set[str]) -> list[str]:
    gate, rules = selection.get("licences", "commercial"), []
    if "pmc" in names:
        rules.append(_GATES[gate])
        if gate != "all":
            kept = selection.get("no_derivatives") == "keep"
            rules.append(f"NoDerivatives licences: {'kept' if kept else 'left out'}.")
    if "pubmed" in names:
        rules.append(
            "Abstracts: **kept also where no licence covers them**; whoever made this corpus took that decision."
            if selection.get("accept_abstract_copyright") or gate == "all"
            else "Abstracts: only those whose article in PubMed Central is under a permitted licence."
        )
        rules.append("Versions: the newest of each citation; citations that PubMed deleted are out.")
    return rules


def _list_filter_rules(selection: Mapping[str, Any], names: set[str]) -> list[str]:
    languages = ", ".join(selection.get("language", ()))
    rules = []
    for name, rule in (
        ("language_filter", f"Language: documents in {languages} only"),
        ("quality_filter", "Quality: Gopher's rules (Rae et al. 2021) fitted to scientific prose"),
        ("near_duplicates", "Near-duplicates: left out, by MinHash"),
    ):
        switch, as_it_is = selection.get(name, "auto"), names & {"pile", "sample", "replay"}
        if switch == "off" or (switch == "auto" and names == as_it_is):
            rules.append(f"{rule.split(':')[0]}: no filter.")
        elif switch == "auto" and as_it_is and name != "near_duplicates":
            rules.append(f"{rule}; {', '.join(sorted(as_it_is))} as it is.")
        else:
            rules.append(f"{rule}.")
    return [*rules, "Exact duplicates: left out; the first in the order of the input stays."]
