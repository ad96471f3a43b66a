"""The words of a data card: what reasons mean, what NLM asks for, and how numbers and foreign text are shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.wording import name_count

UNQUOTED = frozenset(
    (
        "abstract_without_licence",
        "contaminated",
        "contaminated_twin",
        "licence_conflict",
        "no_derivatives_licence",
        "no_licence",
        "noncommercial_licence",
        "text_mining_only",
    )
)
"""Reasons to leave a document out that are reasons not to quote it either."""
UNNAMED = frozenset(("contaminated", "contaminated_twin"))
"""Reasons not to give its title either: the title of a paper can be the question of an exam."""
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
    "no_licence": "no licence is stated that is known to permit training",
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


def name_size(number: int) -> str:
    """Return a size with the unit that suits it.

    >>> name_size(999), name_size(48_200), name_size(1_234_567), name_size(2 * 10**12)
    ('999 bytes', '48.2 kB', '1.2 MB', '2,000.0 GB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return name_count(number, "byte")


def render_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int) -> list[str]:
    """Return a table whose last `numbers` columns are set to the right, and an empty line."""
    marks = ["---"] * (len(titles) - numbers) + ["---:"] * numbers
    return [*(f"| {' | '.join(cells)} |" for cells in (titles, marks, *rows)), ""]


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
            "with PMCID, DOI and title, by which authors, journal and the licence's version and text can be found; it "
            "does not hold these itself. CC BY and its kin ask for the creators and a link to the licence: whoever "
            "passes the text on has to add them. CC0 and public domain ask for neither. Articles may be passed on "
            "only as their licences permit, and share-alike licences bind derived text."
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
