r"""The wording of the published protocol, kept as data: a changed character is another protocol.

Options are not shown. Few-shot examples are prompt + target, joined by a blank line before the item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biomedllama_cli.tasks.question import Question

EXAMPLE_SEPARATOR = "\n\n"


@dataclass(frozen=True)
class PromptFormat:
    """How one task is asked and which continuations are scored.

    Attributes:
        template: text of an item up to the answer; `{question}` and `{abstract}` are filled in.
        option_prefix: what stands before each scored option.
        scored_options: the scored options where they differ in form from the record's, else None.
        example_prefix: what stands before the gold option of a few-shot example.
        normalizes_by_length: whether the protocol has `acc_norm`, which divides by the option's characters.
    """

    template: str
    option_prefix: str = " "
    scored_options: tuple[str, ...] | None = None
    example_prefix: str = " "
    normalizes_by_length: bool = True

    def options_of(self, question: Question) -> tuple[str, ...]:
        """Return the options as they are scored, without the prefix."""
        return question.options if self.scored_options is None else self.scored_options

    def ask(self, question: Question, examples: Sequence[Question] = ()) -> str:
        r"""Return the whole context of a question: the examples with their answers, then the item.

        >>> format = PromptFormat("Question: {question}\nAnswer:")
        >>> example = Question("1", "Is water wet?", ("yes", "no"), 0)
        >>> format.ask(Question("2", "Is fire cold?", ("yes", "no"), 1), [example])
        'Question: Is water wet?\nAnswer: yes\n\nQuestion: Is fire cold?\nAnswer:'
        """
        shown = [self._fill(example) + self.example_prefix + example.answer for example in examples]
        return EXAMPLE_SEPARATOR.join([*shown, self._fill(question)])

    def _fill(self, question: Question) -> str:
        return self.template.format(question=question.question, abstract=question.context)


KNOWLEDGE_QUESTION = PromptFormat("Question: {question}\nAnswer:")
# In the published few-shot row examples end in " yes" while "Yes", "No", "Maybe" without a space are scored.
ABSTRACT_QUESTION = PromptFormat(
    "Abstract: {abstract}\nQuestion: {question}\nAnswer:",
    option_prefix="",
    scored_options=("Yes", "No", "Maybe"),
    normalizes_by_length=False,
)
