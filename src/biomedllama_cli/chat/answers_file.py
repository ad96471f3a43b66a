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
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from biomedllama_cli.chat.answering import LookedUp
from biomedllama_cli.chat.conversation import Reply, write_message
from biomedllama_cli.chat.passage_facts import describe_passage
from biomedllama_cli.chat.private_files import check_folder, check_private, write_private
from biomedllama_cli.errors import OutputError
from biomedllama_cli.evaluation.cells import Frozen
from biomedllama_cli.settings.explain import explain
from biomedllama_cli.tasks.records import file_sha256

FACTS_SUFFIX = ".run.json"


class QuestionFacts(Frozen):
    """The file of questions: where it was, its content as it was read, and how many questions it holds."""

    path: str
    sha256: str
    count: int


class CorpusFacts(Frozen):
    """The corpus that questions were looked up in."""

    path: str
    identity: str


class ModelFacts(Frozen):
    """A model, as a transcript tells of it, and the files that say how it is spoken to.

    Attributes:
        source: folder, hub id or file.
        revision: commit of the hub repository.
        weights_sha256: of its weights; None where nobody knows their file.
        files_sha256: of its configuration, tokenizer and chat template, where they stand in a folder.
        template: name of the style in which conversations were written for it.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    source: str
    revision: str | None
    weights_sha256: str | None
    files_sha256: str | None
    template: str


class AskedFacts(Frozen):
    """The settings that answers depend on, section by section."""

    seed: int
    reply: dict[str, Any]
    style: dict[str, Any]
    compute: dict[str, Any]
    sources: dict[str, int] | None


class AnswerCounts(Frozen):
    """What a model's answers came to.

    Attributes:
        finish: how many ended for which reason.
        prompt_tokens: of all together (in tokens).
        new_tokens: likewise.
        empty: how many said nothing.
        trimmed: how many conversations lost turns.
    """

    finish: dict[str, int]
    prompt_tokens: int
    new_tokens: int
    empty: int
    trimmed: int


class AnswerFacts(Frozen):
    """What a file of answers follows from, and what it came to.

    Attributes:
        created: when it was written (UTC, ISO 8601).
        answers_sha256: of the file of answers.
        questions: the file of questions.
        corpus: that they were looked up in.
        models: the model, and the one it is compared with.
        asked: the settings that answers depend on.
        batch_size: questions answered at once by the last start.
        work: name of the folder in which answers were kept until all were there.
        versions: of this package and its libraries.
        counts: what the answers came to, per model.
        seconds: of the last start, without loading.
        new_tokens: written by the last start.
    """

    schema_version: Literal["biomedllama.answers/1"] = "biomedllama.answers/1"
    created: str
    answers_sha256: str
    questions: QuestionFacts
    corpus: CorpusFacts | None
    models: Annotated[tuple[ModelFacts, ...], Field(min_length=1)]
    asked: AskedFacts
    batch_size: int
    work: str
    versions: dict[str, str]
    counts: tuple[AnswerCounts, ...]
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
    said = [write_message(role, text) for role, text in turns]
    line: dict[str, Any] = {
        "id": one.question.id,
        "question": one.question.question,
        "messages": [*said, write_message("assistant", replies[0]["answer"], replies[0]["finish"])],
        **replies[0],
        "noise_seed": noise_seed,
    }
    if looked_up:
        line["sources"] = [describe_passage(number, each) for number, each in enumerate(one.passages, 1)]
    if len(replies) > 1:
        line["other"] = dict(replies[1])
    return line


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
    """Return the facts of a file of answers that is there and as it was written, else None.

    Raises:
        OutputError: one of the two files is no ordinary file of this user.
    """
    _check_ordinary(output)
    try:
        facts = _read_facts(name_facts_file(output))
        return facts if facts is not None and file_sha256(output) == facts.answers_sha256 else None
    except (OSError, OutputError):
        return None


def check_output(output: Path, questions: Path, *, overwrite: bool) -> None:
    """Refuse an output that must not be written; call it once it is known that it does not hold these very answers.

    Raises:
        OutputError: it or its file of facts is the file of questions, no ordinary file, or holds something and may
            not be replaced; or its folder cannot be written.
    """
    _check_ordinary(output)
    check_folder(output.parent)
    for path in (output, name_facts_file(output)):
        if path.exists() and questions.exists() and path.samefile(questions):
            raise OutputError(
                f"questions.output {output}: {path} is the file of the questions itself",
                "Give another --output.",
            )
    if overwrite:
        return
    _read_facts(name_facts_file(output))
    if output.exists() and output.stat().st_size:
        raise OutputError(
            f"questions.output {output} holds the answers of another run, or something else",
            "Give another --output, or --overwrite.",
        )


def _check_ordinary(output: Path) -> None:
    check_private(output)
    check_private(name_facts_file(output))


def _read_facts(path: Path) -> AnswerFacts | None:
    """Return the facts that a file holds, or None where there is no such file.

    Raises:
        OutputError: it holds something else, or was changed, or a later version wrote it.
    """
    try:
        return AnswerFacts.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        told = f"it cannot be read: {error.strerror}."
    except ValidationError as error:
        told = _explain(error)
    raise OutputError(
        f"{path}, the file of the facts of the answers, holds something else: {told}",
        "Give another --output, or --overwrite.",
    )


def _explain(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    field = ".".join(map(str, problem["loc"]))
    if not field:
        return "it is no object of JSON."
    if problem["type"] == "missing":
        return f"{field} is missing."
    return explain(field, problem)
