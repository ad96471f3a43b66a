"""The rules of a data card: which documents were chosen, and what of them is text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biomedllama_cli.corpus.card_counts import Counts
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.corpus.minhash import PERMUTATIONS, WORDS_PER_SHINGLE
from biomedllama_cli.corpus.near_duplicates import THRESHOLD
from biomedllama_cli.wording import name_count

_GATES = {
    "commercial": "Licences: only articles whose licence permits commercial use (CC0, CC BY, CC BY-SA, public domain). "
    "Silence and contradiction count as no permission.",
    "noncommercial": "Licences: only articles whose licence permits at least non-commercial use. Silence and "
    "contradiction count as no permission. **A model trained on them is not for commercial use.**",
    "all": "Licences: **no gate.** The corpus may hold articles whose licence does not permit training.",
}


def list_rules(manifest: CorpusManifest, counts: Counts) -> list[str]:
    """Return the policy that chose the documents, one sentence or two each, from the settings of the command."""
    selection: Mapping[str, Any] = manifest.settings.get("selection", {})
    names = {source.name for source in manifest.sources}
    rules = _list_licence_rules(selection, names, counts)
    if names & {"pubmed", "pmc"}:
        rules.append(
            "Retractions: retracted articles and the notices are out, as far as the input tells of them."
            if selection.get("retracted", "drop") == "drop"
            else "Retractions: **retracted articles and the notices are kept.**"
        )
    if "pubmed" in names:
        rules.append("Text of a citation: title and abstract, with the labels of its parts.")
    if "pmc" in names:
        rules.append(_name_parts(manifest.settings.get("articles", {})))
    return rules + _list_filter_rules(selection, names)


def _name_parts(articles: Mapping[str, Any]) -> str:
    parts = {"tables": True, "captions": True, "citations": False, "references": False}
    words = ("tables", "captions", "citation markers", "lists of references")
    taken = [articles.get(part, usual) for part, usual in parts.items()]
    left_out = ", ".join(word for word, is_taken in zip(words, taken, strict=True) if not is_taken)
    also = "".join(f", {word}" for word, is_taken in zip(words, taken, strict=True) if is_taken)
    return (
        f"Text of an article: title, abstracts, body with headings, acknowledgements and other back matter{also}; "
        f"without keywords and the list of authors{f', {left_out}' if left_out else ''}."
    )


def _list_licence_rules(selection: Mapping[str, Any], names: set[str], counts: Counts) -> list[str]:
    gate, rules = selection.get("licences", "commercial"), []
    if "pmc" in names:
        rules.append(_GATES[gate])
        if gate != "all":
            kept = selection.get("no_derivatives") == "keep"
            rules.append(f"NoDerivatives licences: {'kept' if kept else 'left out'}.")
    if "pubmed" in names:
        bare = [row for row in counts.breakdowns["licence"] if row.kind == ("pubmed", None)]
        abstracts = name_count(sum(row.documents for row in bare), "abstract")
        rules.append(
            f"Abstracts: **kept also where no licence covers them**: {abstracts} without a licence of their own. "
            "Whoever made this corpus took that decision."
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
        (
            "near_duplicates",
            f"Near-duplicates: left out from an estimated Jaccard similarity of {THRESHOLD} with an earlier document "
            f"(MinHash of {PERMUTATIONS} hashes over runs of {WORDS_PER_SHINGLE} words)",
        ),
    ):
        switch, as_it_is = selection.get(name, "auto"), names & {"pile", "sample", "replay"}
        if switch == "off" or (switch == "auto" and names == as_it_is):
            rules.append(f"{rule.split(':')[0]}: no filter.")
        elif switch == "auto" and as_it_is and name != "near_duplicates":
            rules.append(f"{rule}; {', '.join(sorted(as_it_is))} as it is.")
        else:
            rules.append(f"{rule}.")
    return [*rules, "Exact duplicates: left out; the first in the order of the input stays."]
