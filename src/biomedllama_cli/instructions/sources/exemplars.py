"""The exemplars that Med-PaLM's papers print: questions with answers, with or without a chain of thought.

The papers give them as pages, not as data (arXiv 2212.13138, 2305.09617: the prompts of their appendices), so the
schema is this project's, one object per exemplar:

- `dataset`: medqa, medmcqa, pubmedqa, liveqa or medicationqa;
- `question`;
- for the first three: `options` and the right one as in files of one's own questions; PubMedQA's options may be
  left out (yes, no, maybe; `answer` is one of them), and its abstract is `context`;
- `explanation`: the chain of thought, without the sentence that states the answer, where there is one;
- for the last two: `answer`, the long answer;
- `id`, if one likes; an example's own is `DATASET/ID`, by which a mixture can weigh the data sets apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from biomedllama_cli.errors import DataError
from biomedllama_cli.instructions.example import Example, make_pair
from biomedllama_cli.instructions.finetuning import chain_example, question_example
from biomedllama_cli.instructions.sources.findings import Findings, read_each
from biomedllama_cli.tasks.own_questions import read_id, read_own_question
from biomedllama_cli.tasks.pubmedqa import LABELS
from biomedllama_cli.tasks.records import Record

CHOICE_DATASETS = ("medqa", "medmcqa", "pubmedqa")
LONG_FORM_DATASETS = ("liveqa", "medicationqa")


def iter_exemplars(records: Iterable[Record], source: str, findings: Findings) -> Iterator[Example]:
    """Turn exemplars into examples: questions with options in the instructed models' wording, others as they are.

    Raises:
        DataError: records are wrong: the first twenty by file and line, and how many there are.
    """
    return read_each(records, lambda record: _read(record, source), findings)


def _read(record: Record, source: str) -> Example:
    dataset = record.text("dataset").strip().lower()
    if dataset not in (*CHOICE_DATASETS, *LONG_FORM_DATASETS):
        known = ", ".join((*CHOICE_DATASETS, *LONG_FORM_DATASETS))
        raise DataError(f"{record.where}: field `dataset` is {dataset!r}; it must be one of {known}")
    identifier = f"{dataset}/{read_id(record).removeprefix(f'{dataset}/')}"
    if dataset in LONG_FORM_DATASETS:
        question, answer = record.text("question").strip(), record.text("answer").strip()
        return make_pair(identifier, source, question, answer, exact=False)
    if dataset == "pubmedqa":
        record.text("context")
        if record.fields.get("options") is None:
            record = replace(record, fields={**record.fields, "options": list(LABELS)})
    asked = replace(read_own_question(record), id=identifier)
    if record.fields.get("explanation") is None:
        return question_example(asked, source, "instructed")
    return chain_example(asked, record.text("explanation"), source)
