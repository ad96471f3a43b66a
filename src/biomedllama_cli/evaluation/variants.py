"""All ways in which a profile asks a question, with every byte written out.

Names of variants, which results are read back by:

- a form: what is scored after which prompt. `text_space` (` Iron`), `text_nospace` (`Iron`), `letter_space` and
  `letter_nospace` (the options stand in the prompt, the letter is scored), `letter_text_nospace` (`B) Iron`);
- `premise_<form>`: the form's continuations after the bare answer cue, for the domain-conditional score (Holtzman
  et al. 2021, arXiv:2104.08315); there for every form of the scoring matrix, and only then;
- `context_free`: the same for the profile's own form, as a baseline;
- `<form>_order_<k>_<shown>`: the form with its options shown in the k-th seeded order, the shown options by index
  (`2-0-1`). Continuations keep the question's own order.

Few-shot examples are the same in all forms of one prompt and end as the profile has them, so that a form differs
from another by its continuation alone; where letters are scored, examples end in a letter after a space.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.jobs import Asked, Variant
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.tasks.fewshot import DrawnQuestion
from biomedllama_cli.tasks.prompts import PromptFormat, show_options
from biomedllama_cli.tasks.question import Question

CONTEXT_FREE = "context_free"
PREMISE_PREFIX = "premise_"
_ORDER_MARK = "_order_"


def build_asked(
    profile: Profile,
    task_name: str,
    drawn: Sequence[DrawnQuestion],
    *,
    adds_bos: bool,
    matrix: bool = False,
    permutations: int = 1,
    seed: int = 42,
) -> list[Asked]:
    """Return every way in which a profile asks each question.

    A profile whose answers are read from a chain of thought has no likelihood of its own: only `context_free`.

    Args:
        profile: whose wording and BOS rule hold; not `harness`, which lm-eval asks.
        task_name: as in `--task`, for messages.
        drawn: the questions to score, each with its few-shot examples.
        adds_bos: whether the model's tokenizer puts BOS first.
        matrix: also ask in every form of the scoring matrix, with their premises.
        permutations: orders of the shown options, the original one among them. Where neither the profile nor the
            matrix shows options, their order has no effect and no variant is added.
        seed: of the orders, each a function of the seed and the question's id alone.

    Raises:
        DataError: a question has more options than there are letters to show them with.
    """
    bos = profile.puts_bos(adds_bos)
    asked = []
    for question, examples in drawn:
        if len(question.options) > len(ascii_uppercase):
            raise DataError(
                f"{task_name}: item {question.id} has {len(question.options)} options; letters are for at most "
                f"{len(ascii_uppercase)}"
            )
        prompt = profile.prompt_for(question)
        forms = _list_forms(profile, prompt, matrix)
        variants = [_ask(form, form.form, (question, examples), bos=bos) for form in forms]
        variants.append(Variant(CONTEXT_FREE, prompt.bare_cue, prompt.continuations(question), bos))
        if matrix:
            variants += [
                Variant(PREMISE_PREFIX + form.form, form.bare_cue, form.continuations(question), bos)
                for form in forms
            ]
        permuted = next((form for form in forms if form.shown_option), None)
        if permuted is not None:
            orders = shuffle_options(len(question.options), permutations, seed, question.id)
            for number, order in enumerate(orders, start=1):
                name = f"{permuted.form}{_ORDER_MARK}{number}_{'-'.join(map(str, order))}"
                variants.append(_ask(permuted, name, (question, examples), bos=bos, order=order))
        asked.append(Asked(question, examples, tuple(variants)))
    return asked


def shuffle_options(options: int, count: int, seed: int, question_id: str) -> list[tuple[int, ...]]:
    """Return `count` - 1 seeded orders of a question's options besides their own.

    All differ from each other and from the own order as long as there are that many; the first ones do not depend
    on `count`. Shown at place p is the option with the index at p.

    >>> shuffle_options(2, 4, 42, "a question")
    [(1, 0), (0, 1), (1, 0)]
    """
    generator = random.Random(f"{seed}:{question_id}")
    seen = {tuple(range(options))}
    orders: list[tuple[int, ...]] = []
    while len(orders) < count - 1:
        order = tuple(generator.sample(range(options), options))
        if len(seen) == math.factorial(options):
            seen.clear()
        if order not in seen:
            seen.add(order)
            orders.append(order)
    return orders


def read_order(name: str) -> tuple[str, int, tuple[int, ...]] | None:
    """Return form, number and shown order of a permuted variant's name; None for any other variant.

    >>> read_order("letter_space_order_2_1-0-2"), read_order("letter_space")
    (('letter_space', 2, (1, 0, 2)), None)
    """
    form, mark, rest = name.partition(_ORDER_MARK)
    if not mark:
        return None
    number, _, shown = rest.partition("_")
    return form, int(number), tuple(map(int, shown.split("-")))


def headline_form(profile: Profile, question: Question) -> str | None:
    """Return the name of the variant that is the profile's own; None where it has no likelihood of its own."""
    prompt = profile.prompt_for(question)
    return None if prompt.closing else prompt.form


def _list_forms(profile: Profile, prompt: PromptFormat, matrix: bool) -> list[PromptFormat]:
    """Return the wordings that are scored, the profile's own first."""
    if prompt.closing:
        return []
    if not matrix or profile.method != "likelihood":
        return [prompt]
    letters = show_options(prompt)
    every = [
        replace(base, scored=space + base.scored.lstrip())
        for base in (prompt, letters)
        for space in (" ", "")
    ]
    return [prompt, *(form for form in every if form.form != prompt.form)]


def _ask(
    form: PromptFormat,
    name: str,
    drawn: DrawnQuestion,
    *,
    bos: bool,
    order: tuple[int, ...] | None = None,
) -> Variant:
    question, examples = drawn
    return Variant(name, form.ask(question, examples, order), form.continuations(question, order), bos)
