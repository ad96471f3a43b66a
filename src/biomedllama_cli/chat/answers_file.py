"""The file of answers: a line per question, and beside it the facts of the run that wrote it.

A line holds `messages`, what the model was given and its answer, so that the file is a source of `instruct` as it is.
Both files are for their owner alone, and appear whole or not at all. The facts carry the hash of the answers: answers
that were changed since are nobody's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from biomedllama_cli.chat.answering import LookedUp
from biomedllama_cli.chat.conversation import Passage, Reply
from biomedllama_cli.chat.private_files import check_private, write_private
from biomedllama_cli.errors import OutputError
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.tasks.records import file_sha256

FACTS_SUFFIX = ".run.json"


class AnswerFacts(Frozen):
    """What a file of answers follows from, and what it came to.

    Attributes:
        created: when it was written (UTC, ISO 8601).
        answers_sha256: of the file of answers.
        questions: path and SHA-256 of the file of questions, and how many it holds.
        corpus: path and identity of the corpus that questions were looked up in.
        models: facts of the model, and of the one it is compared with.
        asked: the settings that answers depend on.
        batch_size: questions answered at once by the last start.
        work: name of the folder in which answers were kept until all were there.
        versions: of this package and its libraries.
        counts: what the answers came to, per model: how many by finish, tokens, how many said nothing, and
            conversations that lost turns.
        seconds: of the last start, without loading.
        new_tokens: written by the last start.
    """

    schema_version: str = "biomedllama.answers/1"
    created: str
    answers_sha256: str
    questions: dict[str, Any]
    corpus: dict[str, Any] | None
    models: tuple[dict[str, Any], ...]
    asked: dict[str, Any]
    batch_size: int
    work: str
    versions: dict[str, str]
    counts: tuple[dict[str, Any], ...]
    seconds: float
    new_tokens: int


def name_facts_file(output: Path) -> Path:
    """Return where the facts of a file of answers stand.

    >>> name_facts_file(Path("answers.jsonl")).name
    'answers.jsonl.run.json'
    """
    return output.with_name(output.name + FACTS_SUFFIX)


def describe_reply(reply: Reply) -> dict[str, Any]:
    """Return what a line says of a reply."""
    return {
        "answer": reply.text,
        "finish": reply.finish,
        "prompt_tokens": reply.prompt_tokens,
        "new_tokens": reply.new_tokens,
        "dropped_turns": reply.dropped_turns,
    }


def describe_answer(
    one: LookedUp,
    turns: Sequence[tuple[str, str]],
    noise_seed: int,
    replies: Sequence[Mapping[str, Any]],
    *,
    looked_up: bool,
) -> dict[str, Any]:
    """Return the line of a question.

    Args:
        one: question and passages.
        turns: that the (first) model was given.
        noise_seed: of the sampling.
        replies: of `describe_reply`, one per model.
        looked_up: whether a corpus was searched.
    """
    said = [*turns, ("assistant", replies[0]["answer"])]
    line: dict[str, Any] = {
        "id": one.question.id,
        "question": one.question.question,
        "messages": [{"role": role, "content": text} for role, text in said],
        **replies[0],
        "noise_seed": noise_seed,
    }
    if looked_up:
        line["sources"] = [_describe_passage(number, each) for number, each in enumerate(one.passages, 1)]
    if len(replies) > 1:
        line["other"] = dict(replies[1])
    return line


def _describe_passage(number: int, passage: Passage) -> dict[str, Any]:
    return {
        "number": number,
        "document_id": passage.document_id,
        "pmid": passage.pmid,
        "pmcid": passage.pmcid,
        "doi": passage.doi,
        "title": passage.title,
        "licence": passage.licence,
        "year": passage.year,
        "flags": list(passage.flags),
        "source": passage.source,
        "score": round(passage.score, 4),
    }


def write_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the content of a file of answers."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_answers(output: Path, content: str, facts: AnswerFacts) -> None:
    """Write facts and answers; a kill between the two leaves facts whose answers are not there, as nobody's.

    Raises:
        OutputError: they cannot be written.
    """
    told = json.dumps(facts.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"
    write_private(name_facts_file(output), told)
    write_private(output, content)


def load_facts(output: Path) -> AnswerFacts | None:
    """Return the facts of a file of answers that is there and as it was written, else None."""
    try:
        facts = AnswerFacts.model_validate_json(name_facts_file(output).read_bytes())
        return facts if file_sha256(output) == facts.answers_sha256 else None
    except (OSError, ValidationError):
        return None


def check_output(output: Path, questions: Path, *, overwrite: bool) -> None:
    """Refuse an output that must not be written; call it once it is known that it does not hold these very answers.

    Raises:
        OutputError: it is the file of questions, no ordinary file, or holds something and may not be replaced.
    """
    check_private(output)
    check_private(name_facts_file(output))
    if not output.exists():
        return
    if questions.exists() and output.samefile(questions):
        raise OutputError(
            f"questions.output {output} is the file of the questions itself", "Give another --output."
        )
    if output.stat().st_size and not overwrite:
        raise OutputError(
            f"questions.output {output} holds the answers of another run, or something else",
            "Give another --output, or --overwrite.",
        )
