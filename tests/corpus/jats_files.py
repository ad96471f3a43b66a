"""PMC articles made up for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BY = "https://creativecommons.org/licenses/by/4.0/"
BY_NC = "https://creativecommons.org/licenses/by-nc/4.0/"


@dataclass(frozen=True)
class Article:
    """What a made-up article says; `body` is XML."""

    pmcid: int
    pmid: int | None = None
    doi: str | None = None
    title: str = "A made-up article"
    abstract: str = "What was found, in short."
    body: str = ""
    licence: str | None = BY
    kind: str = "research-article"
    front: str = ""
    version: int | None = None

    def to_xml(self) -> str:
        ids = [("pmc", f"PMC{self.pmcid}")]
        ids += [("pmid", str(self.pmid))] if self.pmid else []
        ids += [("doi", self.doi)] if self.doi else []
        identifiers = "".join(f'<article-id pub-id-type="{kind}">{name}</article-id>' for kind, name in ids)
        licence = (
            f'<permissions><license xlink:href="{self.licence}"><license-p>Licensed.</license-p></license>'
            "</permissions>"
            if self.licence
            else ""
        )
        return (
            f'<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="{self.kind}" xml:lang="en">'
            f"<front><article-meta>{identifiers}<title-group><article-title>{self.title}</article-title>"
            f"</title-group><pub-date><year>2021</year></pub-date>{licence}{self.front}"
            f"<abstract><p>{self.abstract}</p></abstract></article-meta></front>"
            f"<body>{self.body or prose(self.pmcid)}</body></article>"
        )


def prose(seed: int, paragraphs: int = 4) -> str:
    """Return a body of English sentences that no other seed has."""
    subjects = ("The patients", "These mice", "Most of the samples", "The treated cells", "Both groups")
    verbs = ("were given", "did not respond to", "had been exposed to", "were compared with", "showed less")
    objects = ("the first compound", "a lower dose", "the second antibody", "saline alone", "heated serum")
    parts = []
    for number in range(paragraphs):
        sentences = [
            f"{subjects[(seed + i) % 5]} of cohort {seed} {verbs[(seed // 5 + number + i) % 5]} "
            f"{objects[(seed // 25 + i * number) % 5]} on day {seed * 7 % 97 + i}, and that was the case "
            f"in {seed % 89 + number * 11 + i} of the assays that we could use."
            for i in range(5)
        ]
        parts.append(f"<p>{' '.join(sentences)}</p>")
    return "".join(parts)


def write_article(folder: Path, article: Article) -> Path:
    """Write an article under its PMCID."""
    folder.mkdir(parents=True, exist_ok=True)
    version = f".{article.version}" if article.version else ""
    path = folder / f"PMC{article.pmcid}{version}.xml"
    path.write_text(article.to_xml())
    return path
