"""What benchmarks/shared_prefix.py scores: the cells of its table as lm-eval's requests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.samplers import FirstNSampler

from biomedllama_cli.evaluation.harness_quiet import quiet_harness
from biomedllama_cli.evaluation.harness_stock import load_stock_tasks
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, load_questions
from biomedllama_cli.tasks.documents import iter_documents
from biomedllama_cli.tasks.fewshot import Draw, DrawnQuestion, draw_examples
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import iter_records
from harness_rows import Row, build_choice_task, build_text_task

FILES = {
    "medqa-5": "medqa/test_5options_first640.jsonl",
    "medmcqa": "medmcqa/validation_first120.jsonl",
    "pubmedqa": "pubmedqa/ori_pqal_nontest500.json",
}
SEED = 42


@dataclass(frozen=True)
class Place:
    """Where the data is, and a folder for what has to be written on the way."""

    data: Path
    folder: Path


@dataclass(frozen=True)
class Cell:
    """One line of the table.

    Attributes:
        name: of the cell.
        questions: how many are scored unless asked otherwise (documents for running text).
        searched: how many of them lm-eval's batch size is chosen on.
        wanted: times faster than lm-eval.
        build: makes the requests of the first so many questions.
        protocol: whether the published protocol holds (no BOS, EOS as prefix), or lm-eval's own defaults.
    """

    name: str
    questions: int
    searched: int
    wanted: float
    build: Callable[[Place, int], list[Instance]]
    protocol: bool = True


def draw_questions(task: str, place: Place, shots: int, draw: Draw = "per question") -> list[DrawnQuestion]:
    """Return all questions of a task in scoring order with their examples, as the published protocol draws them."""
    name = "medqa-5" if task == "medqa" else task
    known = TASKS[name]
    assert isinstance(known, QuestionTask)
    items = load_questions(known, shots=0, test_file=place.data / FILES[name]).items
    if task == "medqa":
        generator = random.Random(SEED)
        items = tuple(drop_wrong_option(item, generator) for item in items)
    return draw_examples(items, None, shots, SEED, draw=draw)


def drop_wrong_option(question: Question, generator: random.Random) -> Question:
    """Return the question without one of its wrong options, drawn by the generator."""
    wrong = [index for index in range(len(question.options)) if index != question.answer_index]
    dropped = generator.choice(wrong)
    options = question.options[:dropped] + question.options[dropped + 1 :]
    answer_index = question.answer_index - (dropped < question.answer_index)
    return replace(question, options=options, answer_index=answer_index)


def build_rows(drawn: list[DrawnQuestion]) -> list[Row]:
    """Return prompts and continuations of the published protocol."""
    rows = []
    for question, examples in drawn:
        prompt = PROFILES["paper"].prompt_for(question)
        continuations = prompt.continuations(question)
        rows.append(Row(question.id, prompt.ask(question, examples), continuations, question.answer_index))
    return rows


def _literal(task: str, shots: int, draw: Draw = "per question") -> Callable[[Place, int], list[Instance]]:
    def build(place: Place, questions: int) -> list[Instance]:
        rows = build_rows(draw_questions(task, place, shots, draw)[:questions])
        return _list_requests(build_choice_task(task.replace("-", "_"), rows))

    return build


def _letters(shots: int) -> Callable[[Place, int], list[Instance]]:
    """Return a builder of lm-eval's own letter tasks; examples are the same for all questions."""

    def build(place: Place, questions: int) -> list[Instance]:
        requests: list[Instance] = []
        for task in ("medqa", "medmcqa"):
            drawn = [question for question, _ in draw_questions(task, place, 0)]
            folder = place.folder / f"letters-{task}-{shots}-{questions}"
            folder.mkdir(parents=True, exist_ok=True)
            files = {task: _write_items(folder / "test.jsonl", task, drawn[: (questions + 1) // 2])}
            if shots:
                files[f"{task}.train"] = _write_items(folder / "train.jsonl", task, drawn[-shots:])
            with quiet_harness():
                (stock,) = load_stock_tasks(task, shots=shots, local_rows=files, folder=folder)[
                    "tasks"
                ].values()
            stock.set_config(key="num_fewshot", value=shots)
            if shots:
                stock.sampler = FirstNSampler(list(stock.fewshot_docs()))
            requests += _list_requests(stock)
        return requests

    return build


def _write_items(path: Path, task: str, questions: list[Question]) -> Path:
    """Write questions as a file in the original schema."""
    lines = []
    for one in questions:
        if task == "medqa":
            options = dict(zip("ABCD", one.options, strict=True))
            answer = {"answer_idx": "ABCD"[one.answer_index], "answer": one.answer}
            fields = {"question": one.question, "options": options, **answer}
        else:
            texts = dict(zip(("opa", "opb", "opc", "opd"), one.options, strict=True))
            fields = {"id": one.id, "question": one.question, "cop": "abcd"[one.answer_index], **texts}
        lines.append(json.dumps(fields) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _texts(subset: str) -> Callable[[Place, int], list[Instance]]:
    def build(place: Place, questions: int) -> list[Instance]:
        records = (
            record
            for path in sorted((place.data / "pile").glob("0*.jsonl.zst"))
            for record in iter_records(path)
        )
        documents: Iterator[Any] = iter_documents(records, subset)
        return _list_requests(build_text_task("text", [one.text for one in islice(documents, questions)]))

    return build


def _list_requests(task: Any) -> list[Instance]:
    with quiet_harness():
        task.build_all_requests()
    requests: list[Instance] = task.instances
    return requests


CELLS = {
    cell.name: cell
    for cell in (
        Cell("medqa-5, 0 shots", 40, 3, 4.5, _literal("medqa-5", 0)),
        Cell("medqa-4, 0 shots", 40, 3, 3.5, _literal("medqa", 0)),
        Cell("medqa-5, 3 shots per question", 15, 2, 4.0, _literal("medqa-5", 3)),
        Cell("medqa-5, 3 fixed shots", 20, 2, 10.0, _literal("medqa-5", 3, "fixed")),
        Cell("medmcqa, 10 fixed shots", 40, 2, 15.0, _literal("medmcqa", 10, "fixed")),
        Cell("letters, 0 shots", 100, 12, 1.0, _letters(0), protocol=False),
        Cell("letters, 3 fixed shots", 60, 8, 2.5, _letters(3), protocol=False),
        Cell("perplexity of abstracts", 100, 12, 1.2, _texts("PubMed Abstracts")),
        Cell("perplexity of papers", 2, 1, 1.2, _texts("PubMed Central")),
    )
}


def take_questions(requests: list[Instance], questions: int) -> list[Instance]:
    """Return the requests of the first questions of each task among them."""
    return [request for request in requests if request.doc_id is not None and request.doc_id < questions]
