"""What a model in training is looked at with: texts and questions as token sequences, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.encoding import encode_continuations, iter_windows
from biomedllama_cli.evaluation.token_trees import TokenSequence
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.tasks.question import Document, Question

PROMPT = "Question: {}\nAnswer:"

TextKind = Literal["general", "validation"]


@dataclass(frozen=True)
class Reading:
    """How texts become token sequences.

    Attributes:
        tokenizer: of the model.
        puts_bos: whether BOS stands before a text; else EOS does, as between the documents of a corpus.
        context_length: longest input (in tokens).
    """

    tokenizer: Tokenizer
    puts_bos: bool
    context_length: int

    @property
    def prefix_id(self) -> int:
        """Return what the first token of a text is conditioned on."""
        bos_id = self.tokenizer.bos_id
        return bos_id if self.puts_bos and bos_id is not None else self.tokenizer.eos_id


@dataclass(frozen=True)
class TextProbe:
    """Documents whose bits per byte are counted.

    Attributes:
        name: of the set, or of the source of held-out documents.
        kind: general text, or the corpus' own.
        sequences: their windows; every token of a text is scored once.
        owners: number of the document each sequence is of.
        utf8_bytes: of what is scored of each document.
    """

    name: str
    kind: TextKind
    sequences: tuple[TokenSequence, ...]
    owners: tuple[int, ...]
    utf8_bytes: tuple[int, ...]


@dataclass(frozen=True)
class QuestionProbe:
    """Questions whose likeliest option is taken for the answer.

    Attributes:
        name: of the task.
        sequences: every option after its question, question by question.
        options: their texts, by question.
        answers: place of the right one, by question.
    """

    name: str
    sequences: tuple[TokenSequence, ...]
    options: tuple[tuple[str, ...], ...]
    answers: tuple[int, ...]


Probe = TextProbe | QuestionProbe


def build_text_probe(name: str, documents: Sequence[Document], reading: Reading) -> TextProbe:
    """Return the windows of general documents, as `evaluate` cuts running text; empty texts are left out."""
    encoded = [(reading.tokenizer.encode(document.text), document.text) for document in documents]
    kept = [(ids, len(text.encode("utf-8"))) for ids, text in encoded if ids]
    windows = [
        (number, window)
        for number, (ids, _) in enumerate(kept)
        for window in iter_windows(ids, prefix_id=reading.prefix_id, context_length=reading.context_length)
    ]
    return TextProbe(
        name,
        "general",
        tuple(window for _, window in windows),
        tuple(number for number, _ in windows),
        tuple(size for _, size in kept),
    )


def build_question_probe(name: str, questions: Sequence[Question], reading: Reading) -> QuestionProbe:
    """Return every option of every question after it; a question too long for a row loses its beginning.

    A question with an option that the tokenizer has no token for is left out.
    """
    sequences: list[TokenSequence] = []
    kept: list[Question] = []
    for question in questions:
        continuations = [f" {option}" for option in question.options]
        prompt = PROMPT.format(question.question)
        try:
            encoded = encode_continuations(reading.tokenizer, prompt, continuations, bos=reading.puts_bos)
        except DataError:  # vocabularies without digits, or without Latin letters
            continue
        kept.append(question)
        for one in encoded:
            ids = one.token_ids[-(reading.context_length + 1) :]
            sequences.append(TokenSequence(ids, min(one.scored, len(ids) - 1)))
    return QuestionProbe(
        name,
        tuple(sequences),
        tuple(question.options for question in kept),
        tuple(question.answer_index for question in kept),
    )
