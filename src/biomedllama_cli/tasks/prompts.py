"""How questions are put into words; the wording is the protocol, to the character.

Each wording names its source: the published likelihood evaluation, fine-tuning and instruction prompts are kept
exactly; the rest are choices of this project and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from string import ascii_uppercase
from typing import Any, Literal

from biomedllama_cli.tasks.question import Question

EXAMPLE_SEPARATOR = "\n\n"
LABEL_SETS = (("yes", "no", "maybe"), ("yes", "no"))
"""Options that mean the same in every question of a task."""

TaskKind = Literal["options", "abstract", "label"]
"""`options`: its own ones in each question; `abstract`: yes, no (or maybe) about an abstract; `label`: the same
labels without an abstract."""


def kind_of(question: Question) -> TaskKind:
    """Return how a question is to be asked; the same for all questions of a task.

    >>> kind_of(Question("1", "Is water wet?", ("yes", "no", "maybe"), 0, "Water is wet."))
    'abstract'
    >>> kind_of(Question("2", "Is it?", ("Yes", "No", "Never", "Always"), 0))
    'options'
    """
    if question.options not in LABEL_SETS:
        return "options"
    return "label" if question.context is None else "abstract"


@dataclass(frozen=True)
class PromptFormat:
    """How one kind of task is asked and which continuations are scored.

    In the pieces of text `{option}` stands for an option's text and `{letter}` for the letter it is shown with.

    Attributes:
        template: text of an item up to the answer; `{question}`, `{abstract}` and `{options}` are filled in.
        scored: what is scored for each option after the prompt.
        example_target: what follows a few-shot example's prompt, for its right option.
        shown_option: how an option stands in `{options}`; empty where options are not shown.
        option_separator: between shown options.
        capitalizes: whether shown and scored options begin with a capital letter.
        capitalizes_examples: whether an example's target does.
        normalizes_by_length: whether the protocol has `acc_norm`, which divides by the option's characters.
        closing: what asks for the answer after a generated chain of thought; empty without one.
    """

    template: str
    scored: str = " {option}"
    example_target: str = " {option}"
    shown_option: str = ""
    option_separator: str = "\n"
    capitalizes: bool = False
    capitalizes_examples: bool = False
    normalizes_by_length: bool = True
    closing: str = ""

    @property
    def form(self) -> str:
        """Name of what is scored: `text_space`, `letter_nospace`, `letter_text_nospace`, ...

        >>> PromptFormat("Answer:").form, PromptFormat("Answer:(", scored="{letter}) {option}").form
        ('text_space', 'letter_text_nospace')
        """
        parts = [name for mark, name in (("{letter}", "letter"), ("{option}", "text")) if mark in self.scored]
        return "_".join([*parts, "space" if self.scored.startswith(" ") else "nospace"])

    @property
    def bare_cue(self) -> str:
        r"""What asks for the answer, without a question: the context-free baseline's whole prompt.

        >>> PromptFormat("Question: {question}\nAnswer:").bare_cue
        'Answer:'
        """
        return (self.closing or self.template).rsplit("\n", 1)[-1]

    def options_of(self, question: Question) -> tuple[str, ...]:
        """Return the options as they are shown and scored."""
        return tuple(map(_capitalize, question.options)) if self.capitalizes else question.options

    def ask(
        self, question: Question, examples: Sequence[Question] = (), order: Sequence[int] | None = None
    ) -> str:
        r"""Return the whole context of a question: the examples with their answers, then the item.

        Args:
            question: the item.
            examples: shown before it, in this order, their options in their own order.
            order: the item's options as they are shown, by index; None is their own order.

        >>> format = PromptFormat("Question: {question}\nAnswer:")
        >>> example = Question("1", "Is water wet?", ("yes", "no"), 0)
        >>> format.ask(Question("2", "Is fire cold?", ("yes", "no"), 1), [example])
        'Question: Is water wet?\nAnswer: yes\n\nQuestion: Is fire cold?\nAnswer:'
        """
        shown = [self._fill(example, None) + self._target(example) for example in examples]
        return EXAMPLE_SEPARATOR.join([*shown, self._fill(question, order)])

    def continuations(self, question: Question, order: Sequence[int] | None = None) -> tuple[str, ...]:
        r"""Return what is scored for each option, in the question's own order, whatever order is shown.

        >>> format = PromptFormat("{options}\nAnswer:", scored=" {letter}", shown_option="{letter}. {option}")
        >>> format.continuations(Question("1", "?", ("red", "green", "blue"), 0), order=[2, 0, 1])
        (' B', ' C', ' A')
        """
        shown = list(range(len(question.options)) if order is None else order)
        return tuple(
            self.scored.format(option=option, letter=ascii_uppercase[shown.index(index)])
            for index, option in enumerate(self.options_of(question))
        )

    def describe(self) -> dict[str, Any]:
        """Return the wording as data for a report."""
        return {**asdict(self), "example_separator": EXAMPLE_SEPARATOR}

    def _fill(self, question: Question, order: Sequence[int] | None) -> str:
        options = self.options_of(question)
        shown = [options[index] for index in (range(len(options)) if order is None else order)]
        lines = [
            self.shown_option.format(letter=letter, option=option)
            for letter, option in zip(ascii_uppercase, shown, strict=False)
        ]
        return self.template.format(
            question=question.question, abstract=question.context, options=self.option_separator.join(lines)
        )

    def _target(self, example: Question) -> str:
        answer = _capitalize(example.answer) if self.capitalizes_examples else example.answer
        return self.example_target.format(option=answer, letter=ascii_uppercase[example.answer_index])


def show_options(prompt: PromptFormat) -> PromptFormat:
    r"""Return a wording that shows the options as `A. ...` lines before its last line and scores the letter.

    >>> show_options(PromptFormat("Question: {question}\nAnswer:")).ask(Question("1", "Wet?", ("yes", "no"), 0))
    'Question: Wet?\nA. yes\nB. no\nAnswer:'
    """
    head, _, cue = prompt.template.rpartition("\n")
    return replace(
        prompt,
        template=f"{head}\n{{options}}\n{cue}",
        scored=" {letter}",
        example_target=" {letter}",
        shown_option="{letter}. {option}",
    )


def show_context(prompt: PromptFormat) -> PromptFormat:
    r"""Return a wording that shows the text a question is about before the question, under a heading `Context`.

    >>> question = Question("1", "Which?", ("tin", "iron"), 0, "Tin and iron.")
    >>> show_context(PromptFormat("### Question: {question}\n### Answer:")).ask(question)
    '### Context: Tin and iron.\n### Question: Which?\n### Answer:'
    """
    before, _, after = prompt.template.partition("{question}")
    start = before.rfind("\n") + 1
    heading = before[start:].replace("Question", "Context") + "{abstract}"
    gap = "\n\n" if after.startswith("\n\n") else "\n"
    return replace(prompt, template=before[:start] + heading + gap + prompt.template[start:])


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:]


KNOWLEDGE_QUESTION = PromptFormat("Question: {question}\nAnswer:")
"""Published likelihood evaluation of MedQA and MedMCQA: options are not shown."""

# In the published few-shot row examples end in " yes" while "Yes", "No", "Maybe" without a space are scored.
ABSTRACT_QUESTION = PromptFormat(
    "Abstract: {abstract}\nQuestion: {question}\nAnswer:",
    scored="{option}",
    capitalizes=True,
    normalizes_by_length=False,
)
"""Published likelihood evaluation of PubMedQA."""

LABEL_QUESTION = replace(ABSTRACT_QUESTION, template=KNOWLEDGE_QUESTION.template)
"""The same without the abstract: not published."""

_FINETUNED = "### Question: {question}\n### Options: {options}\n### Answer:"
FINETUNED_QUESTION = PromptFormat(_FINETUNED, shown_option="({letter}) {option}", option_separator=" ")
"""Published source text of fine-tuning on MedQA and MedMCQA."""

FINETUNED_ABSTRACT = replace(
    FINETUNED_QUESTION, template="### Context: {abstract}\n" + _FINETUNED, normalizes_by_length=False
)
"""Published source text of fine-tuning on PubMedQA."""

_KNOWLEDGE_INSTRUCTION = (
    "The following is a multiple-choice question (with options) about medical knowledge. Please select the most "
    "appropriate one from the following answer candidates as the final answer.\n\n### Question: {question}\n\n"
    "### Options:\n{options}\n\n### Answer:"
)
_ABSTRACT_INSTRUCTION = (
    "The following is a medical question paired with an abstract from PubMed. Please answer Yes / No / Maybe to "
    "the question given the scientific evidence as the final answer.\n\n### Abstract: {abstract}\n\n"
    "### Question: {question}\n\n### Answer:"
)
_LABEL_INSTRUCTION = (
    "The following is a medical question. Please answer Yes / No / Maybe to the question as the final answer."
    "\n\n### Question: {question}\n\n### Answer:"
)

INSTRUCTED_QUESTION = PromptFormat(
    _KNOWLEDGE_INSTRUCTION + "(",
    scored="{letter}) {option}",
    example_target="{letter}) {option}",
    shown_option="({letter}) {option}",
)
"""Published test prompt of instructed models for MedQA and MedMCQA."""

INSTRUCTED_ABSTRACT = PromptFormat(
    _ABSTRACT_INSTRUCTION, capitalizes=True, capitalizes_examples=True, normalizes_by_length=False
)
"""Published test prompt of instructed models for PubMedQA; the space before a scored label is this project's."""

INSTRUCTED_LABEL = replace(INSTRUCTED_ABSTRACT, template=_LABEL_INSTRUCTION)
"""The same without the abstract: not published."""

_CHAIN_CUE = " Let's think step by step."
_CLOSING = "\nTherefore, the answer is"

CHAIN_QUESTION = replace(
    INSTRUCTED_QUESTION,
    template=_KNOWLEDGE_INSTRUCTION + _CHAIN_CUE,
    example_target=_CLOSING + " ({letter}) {option}",
    closing=_CLOSING + " (",
)
"""The instructed prompt with two cues of this project's own: one for the chain of thought, one for its answer.

The answer is what the chain states (`the answer is ...`); a chain that ends without can be continued with `closing`.
"""

CHAIN_ABSTRACT = replace(
    INSTRUCTED_ABSTRACT,
    template=_ABSTRACT_INSTRUCTION + _CHAIN_CUE,
    example_target=_CLOSING + " {option}",
    closing=_CLOSING,
)
"""Likewise for PubMedQA."""

CHAIN_LABEL = replace(CHAIN_ABSTRACT, template=_LABEL_INSTRUCTION + _CHAIN_CUE)
"""Likewise without the abstract."""
