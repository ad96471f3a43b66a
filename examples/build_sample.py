"""Build the biomedical sample text that is bundled with the package, from a folder of PLOS articles in JATS.

    python examples/build_sample.py FOLDER_OF_PLOS_XML [--output-dir FOLDER]

The same folder gives the same records in the same order: nothing here is drawn at random. An article is
taken only if its own file says that it is a research article under CC BY or CC0; what is unclear is left out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import zstandard

from biomedllama_cli.corpus.split import hash_content, is_held_out
from plos_articles import XLINK_HREF, Article, parse_article, read_article, read_doi, read_licence

TARGET_BYTES = 2_000_000  # of UTF-8 text: a tokenizer and a small model train on it within minutes
FILES = 2
OUTPUT = Path(__file__).resolve().parent.parent / "src/biomedllama_cli/data/sample"

# PLOS ONE publishes every science: these articles of the starter corpus are not about life or health.
OFF_TOPIC = {
    "10.1371/journal.pone.0002554": "wood of violins",
    "10.1371/journal.pone.0005723": "palaeontology",
    "10.1371/journal.pone.0081648": "climate policy",
    "10.1371/journal.pone.0116201": "finance",
    "10.1371/journal.pone.0117688": "computer vision",
    "10.1371/journal.pone.0120924": "palaeontology",
    "10.1371/journal.pone.0121226": "cryptography",
    "10.1371/journal.pone.0126470": "literature",
}


def select_articles(folder: Path) -> list[Article]:
    """Return the articles to bundle, sorted by DOI: shortest first until the target is reached."""
    roots = [parse_article(path) for path in sorted(folder.glob("*.xml"))]
    retracted = {
        link.get(XLINK_HREF).removeprefix("info:doi/")
        for root in roots
        for link in root.iterfind(".//related-article[@related-article-type='retracted-article']")
    }
    candidates = []
    for root in roots:
        licence = read_licence(root)
        doi = read_doi(root)
        if (
            root.get("article-type") == "research-article"
            and licence
            and doi not in retracted | OFF_TOPIC.keys()
        ):
            article = read_article(root, licence)
            candidates += [article] if article else []
    chosen: list[Article] = []
    for article in sorted(candidates, key=lambda article: (article.size, article.doi)):
        if sum(taken.size for taken in chosen) + article.size <= TARGET_BYTES:
            chosen.append(article)
    return sorted(chosen, key=lambda article: article.doi)


def write_records(articles: list[Article], folder: Path) -> None:
    """Write the records in Pile format, compressed."""
    per_file = -(-len(articles) // FILES)
    for index in range(FILES):
        lines = []
        for article in articles[index * per_file : (index + 1) * per_file]:
            meta = {
                "pile_set_name": "PubMed Central",
                "doi": article.doi,
                "title": article.title,
                "licence": article.licence,
                "source": "PLOS",
            }
            lines.append(json.dumps({"text": article.text, "meta": meta}, ensure_ascii=False) + "\n")
        packed = zstandard.ZstdCompressor(level=19).compress("".join(lines).encode())
        (folder / f"plos-{index:02}.jsonl.zst").write_bytes(packed)


def write_notice(articles: list[Article], folder: Path) -> None:
    """Write title, authors, journal, year, DOI, licence and changes of every article."""
    template = (Path(__file__).parent / "build_sample_notice.md").read_text()
    entries = []
    for article in articles:
        holder = f"Copyright: {article.copyright_holder}. " if article.copyright_holder else ""
        formulas = f" Paragraphs dropped for their formulas: {article.formula_paragraphs}." * bool(
            article.formula_paragraphs
        )
        licence = f"[{article.licence}]({article.licence_url})"
        entries.append(
            f"- **{article.title}** {', '.join(article.authors)}. *{article.journal}*, {article.year}. "
            f"<https://doi.org/{article.doi}>. {holder}Licence: {licence}.{formulas}\n"
        )
    total = sum(article.size for article in articles)
    notice = template.format(documents=len(articles), bytes=f"{total:,}", articles="\n".join(entries))
    (folder / "NOTICE.md").write_text(notice)


def main() -> None:
    """Read the folder, select, write, and print what was taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of PLOS articles (*.xml, JATS)")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT, help="folder of the bundle")
    arguments = parser.parse_args()
    articles = select_articles(arguments.folder)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_records(articles, arguments.output_dir)
    write_notice(articles, arguments.output_dir)
    hashes = np.array([hash_content(article.text.encode())[1] for article in articles], dtype=np.uint64)
    held_out = [article for article, out in zip(articles, is_held_out(hashes, 0.05), strict=True) if out]
    print(f"{len(articles)} articles, {sum(a.size for a in articles):,} bytes of text")
    print(f"a 5 % split holds out {len(held_out)} articles, {sum(a.size for a in held_out):,} bytes")


if __name__ == "__main__":
    main()
