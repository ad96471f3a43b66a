"""The parts of a data card that say what a corpus is for, how it is loaded, and which exams were looked for."""

from __future__ import annotations

from biomedllama_cli.corpus.card_text import escape, render_table
from biomedllama_cli.corpus.manifest import CorpusManifest
from biomedllama_cli.corpus.shards import choose_dtype

_LOADING = """\
import numpy as np, pyarrow.parquet as pq, transformers
row = pq.read_table("documents.parquet").slice(0, 1).to_pylist()[0]
ids = np.memmap(row["shard"] + ".bin", dtype=np.{dtype}, mode="r")[row["first_token"] :][: row["tokens"]]
print(transformers.AutoTokenizer.from_pretrained("tokenizer").decode(ids, skip_special_tokens=True))"""


def render_use(manifest: CorpusManifest) -> list[str]:
    """Return the section on use, limits, people and loading."""
    dtype = choose_dtype(manifest.vocabulary_size).name
    return [
        "## Use and limits",
        "",
        "Meant for research: to train language models further on biomedical text, with the tokenizer that is in the "
        "folder. Not meant as a source of medical facts, and a model trained on it is not fit for diagnosis, treatment "
        "or any clinical decision.",
        "",
        "- Texts can be wrong, outdated or corrected since, and a corpus knows only of the retractions that its input "
        "tells of.",
        "- What is written most, and in the languages kept, is here most: countries, diseases and patients of whom "
        "little is published are rare, and positive results are overrepresented. No balance was sought.",
        "- Text is as published. It names people, and may hold addresses and cases of single "
        "patients: personal data were neither looked for nor removed.",
        "- What was done with licences, duplicates, languages and quality was done by rules, which err; the examples "
        "below help to judge them.",
        "",
        "To load the first document:",
        "",
        "```python",
        *_LOADING.format(dtype=dtype).splitlines(),
        "```",
        "",
    ]


def render_benchmarks(manifest: CorpusManifest) -> list[str]:
    """Return the section on benchmark questions."""
    facts = manifest.decontamination
    lines = ["## Benchmark questions", ""]
    mode = facts.get("mode", "off")
    said = {
        "drop": "Documents that hold a benchmark item were left out.",
        "report": "Documents that hold a benchmark item were looked for and **kept**.",
    }
    lines += [said.get(mode, "**Benchmark items were not looked for.**"), ""]
    rows = [
        (escape(name), *(f"{counts[key]:,}" for key in ("items", "testable", "contaminated", "documents")))
        for name, counts in sorted(facts.get("benchmarks", {}).items())
    ]
    if not rows:
        return lines
    titles = ("Benchmark", "Items", "Testable", "Items found", "Documents that hold one")
    return [
        *lines,
        *render_table(titles, rows, numbers=4),
        "An item is testable if its question has 13 words, or 8 and an answer in words; one of PubMedQA, if it has "
        "a PMID or a passage of 13 words. `untestable.jsonl` names the others, with the reason. A document holds an "
        "item if it has the item's PMID, shares 13 words in a row that are no common wording of exams, holds a "
        "question of 8 to 12 words with the right answer within 100 words of it, or has three quarters of the "
        "item's words in their order. Paraphrases and translations are not found. Decision 10 in the program's "
        "documentation has the rates of error.",
        "",
        "`contamination.jsonl` quotes what was found: **do not publish it with the corpus**, or the exam is in the "
        "open again.",
        "",
    ]
