"""Questions as examples to tune on, in the wording the tuned model is tested in."""

from __future__ import annotations

from typing import Literal

from biomedllama_cli.instructions.example import Example, make_pair
from biomedllama_cli.tasks import prompts
from biomedllama_cli.tasks.options import LETTERS
from biomedllama_cli.tasks.prompts import PromptFormat, TaskKind
from biomedllama_cli.tasks.question import Question

Form = Literal["finetuned", "instructed"]
"""Whose published prompts: those of the models fine-tuned on one task, or of the instructed ones."""

_WORDINGS: dict[Form, dict[TaskKind, PromptFormat]] = {
    "finetuned": {
        "options": prompts.FINETUNED_QUESTION,
        "abstract": prompts.FINETUNED_ABSTRACT,
        "label": prompts.FINETUNED_QUESTION,
    },
    "instructed": {
        "options": prompts.INSTRUCTED_QUESTION,
        "abstract": prompts.INSTRUCTED_ABSTRACT,
        "label": prompts.INSTRUCTED_LABEL,
    },
}
_CHAINS: dict[TaskKind, PromptFormat] = {
    "options": prompts.CHAIN_QUESTION,
    "abstract": prompts.CHAIN_ABSTRACT,
    "label": prompts.CHAIN_LABEL,
}


def question_example(question: Question, source: str, form: Form) -> Example:
    r"""Return a question with its answer, to the character as the model is asked later.

    A fine-tuned model learns ` {answer}`. An instructed one learns ` (A) {answer}` behind `### Answer:`, a choice of
    this project: the published test prompt ends in `### Answer:(`, so it lacks the space that is learnt here; of
    PubMedQA it learns ` Yes`, ` No` or ` Maybe`.

    Args:
        question: the question.
        source: what the example's source is called.
        form: whose wording.

    >>> learnt = question_example(Question("1", "Is tin a metal?", ("No", "Yes"), 1), "mine", "finetuned")
    >>> learnt.turns[0].text, learnt.turns[1].text
    ('### Question: Is tin a metal?\n### Options: (A) No (B) Yes\n### Answer:', ' Yes')
    """
    wording = _show_passage(_WORDINGS[form][prompts.kind_of(question)], question)
    prompt, answer = wording.ask(question), wording.continuations(question)[question.answer_index]
    if wording.template.endswith("("):
        prompt, answer = prompt.removesuffix("("), " (" + answer
    return _make_example(question, source, wording, prompt, answer)


def chain_example(question: Question, chain: str, source: str) -> Example:
    r"""Return a question with the thoughts that lead to its answer, as `evaluate` asks for and reads them.

    Args:
        question: the question.
        chain: the thoughts, without the answer's own sentence, which is put behind them.
        source: what the example's source is called.

    >>> learnt = chain_example(Question("1", "Is tin a metal?", ("No", "Yes"), 1), "It conducts.", "mine")
    >>> learnt.turns[0].text[-37:], learnt.turns[1].text
    ("### Answer: Let's think step by step.", ' It conducts.\nTherefore, the answer is (B) Yes')
    """
    wording = _show_passage(_CHAINS[prompts.kind_of(question)], question)
    index = question.answer_index
    closing = wording.example_target.format(letter=LETTERS[index], option=wording.options_of(question)[index])
    return _make_example(question, source, wording, wording.ask(question), f" {chain.strip()}{closing}")


def _show_passage(wording: PromptFormat, question: Question) -> PromptFormat:
    """Return a wording that shows the text a question is about, where it is about one."""
    if question.context is None or "{abstract}" in wording.template:
        return wording
    return prompts.show_context(wording)


def _make_example(
    question: Question, source: str, wording: PromptFormat, prompt: str, answer: str
) -> Example:
    cuttable = None
    if question.context:
        before = wording.template.partition("{abstract}")[0]
        assert "{" not in before, "something of the question stands before its abstract"
        cuttable = (len(before), len(before) + len(question.context))
    return make_pair(question.id, source, prompt, answer, exact=True, cuttable=cuttable)
