"""The protocols a model can be evaluated with: frozen, numbered, every difference between them named.

A profile never changes under its number: another wording, space or rule is a new version. What it prints as
(`paper/1`) therefore says exactly what was asked.

`clean` is `paper` without its known defects:

- PubMedQA is scored on the 500 items of the official test part, and its examples come from the other 500; `paper`
  scores all 1,000 and draws the examples from them.
- Examples never stand among the scored items: where there is no training data, few-shot is refused.
- PubMedQA's labels are scored after a space, ` Yes`, and examples end in that same form; `paper` scores `Yes`
  glued to the colon after examples that end in ` yes`.
- BOS stands first where the model's tokenizer puts it there, as in its training; `paper` never has it.
- Running text begins after BOS where the tokenizer has one; `paper` begins it after EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from biomedllama_cli.errors import DataError, SettingsError
from biomedllama_cli.settings.suggest import suggest
from biomedllama_cli.tasks import prompts
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask, TextTask
from biomedllama_cli.tasks.fewshot import Draw, DrawnQuestion, draw_examples
from biomedllama_cli.tasks.prompts import PromptFormat
from biomedllama_cli.tasks.pubmedqa_split import OFFICIAL_TEST_ITEMS, is_official_test
from biomedllama_cli.tasks.question import Question

Method = Literal["likelihood", "generation", "lm-eval"]


@dataclass(frozen=True)
class Wordings:
    """A profile's prompts by kind of task (`tasks.prompts.TaskKind`)."""

    options: PromptFormat
    abstract: PromptFormat
    label: PromptFormat


@dataclass(frozen=True)
class Profile:
    """One protocol.

    Attributes:
        name: as in `--profile`.
        version: rises with any change of what is asked.
        method: how an answer is found: by the options' likelihood, by generated text, or by lm-eval's own tasks.
        summary: one line for lists.
        wordings: the prompts; None where lm-eval asks.
        headline_score: the key of the scores that stands in tables.
        bos: whether BOS stands first: `none` or `convention`, the tokenizer's own default.
        rolling_prefix: what running text begins after; None where the profile has no running text.
        official_test: whether PubMedQA is cut to its official test part.
        leaks: whether examples may come from the scored items where there is no training data.
    """

    name: str
    version: int
    method: Method
    summary: str
    wordings: Wordings | None
    headline_score: str
    bos: Literal["none", "convention"]
    rolling_prefix: Literal["EOS", "BOS, else EOS"] | None = None
    official_test: bool = False
    leaks: bool = False

    def __str__(self) -> str:
        """Return the name with the version: `paper/1`."""
        return f"{self.name}/{self.version}"

    def supports(self, task_name: str) -> bool:
        """Tell whether this profile scores a task of the catalogue by itself."""
        if isinstance(TASKS[task_name], TextTask):
            return self.rolling_prefix is not None
        return self.wordings is not None

    def cuts_to_official_test(self, task_name: str) -> bool:
        """Tell whether only the official test part of a task is scored."""
        return self.official_test and task_name.split("-")[0] == "pubmedqa"

    def count_published_items(self, task_name: str) -> int | None:
        """Return how many items the task's published test set has for this profile; None where none is known.

        >>> [PROFILES[name].count_published_items("pubmedqa") for name in ("paper", "clean", "harness")]
        [1000, 500, 500]
        """
        if self.cuts_to_official_test(task_name):
            return OFFICIAL_TEST_ITEMS
        task = TASKS.get(task_name)
        return task.published_items if isinstance(task, QuestionTask) else None

    def puts_bos(self, adds_bos: bool) -> bool:
        """Tell whether BOS stands first, for a tokenizer that does (`adds_bos`) or does not put it there."""
        return self.bos == "convention" and adds_bos

    def choose_rolling_prefix(self, bos_id: int | None, eos_id: int) -> tuple[str, int]:
        """Return the name and the id of what running text begins after."""
        assert self.rolling_prefix is not None
        if self.rolling_prefix == "BOS, else EOS" and bos_id is not None:
            return "BOS", bos_id
        return "EOS", eos_id

    def prompt_for(self, question: Question) -> PromptFormat:
        """Return the wording that a question is asked in; it shows the context of who brings questions with one."""
        assert self.wordings is not None
        prompt: PromptFormat = getattr(self.wordings, prompts.kind_of(question))
        hides = question.context is not None and "{abstract}" not in prompt.template
        return prompts.show_context(prompt) if hides else prompt

    def prompt_of(self, question: Question, examples: Sequence[Question] = ()) -> str:
        """Return the whole prompt of a question after its examples."""
        return self.prompt_for(question).ask(question, examples)

    def gold_of(self, question: Question) -> str:
        """Return the text that a generated answer is compared with, before both are trimmed.

        Source: the published evaluation of fine-tuned and instructed models.
        """
        return self.prompt_for(question).continuations(question)[question.answer_index]


@dataclass(frozen=True)
class DrawnTask:
    """The questions a profile scores in a task, in their order, with their examples.

    Attributes:
        questions: all of them, before any limit.
        pool: what the examples were drawn from; None where there are none, or from the questions themselves.
        rule: how, in words; None without examples.
    """

    questions: tuple[DrawnQuestion, ...]
    pool: tuple[Question, ...] | None
    rule: str | None


def find_profile(name: str) -> Profile:
    """Return a profile by its name.

    Raises:
        SettingsError: there is none of that name.
    """
    if name not in PROFILES:
        hint = suggest(name, PROFILES) or f"Profiles: {', '.join(PROFILES)}."
        raise SettingsError(f"profile is {name!r}; it must be one of {', '.join(PROFILES)}", hint)
    return PROFILES[name]


def draw_task(
    profile: Profile,
    task_name: str,
    items: Sequence[Question],
    pool: Sequence[Question] | None = None,
    *,
    shots: int,
    seed: int,
    draw: Draw = "per question",
) -> DrawnTask:
    """Choose what a profile scores of a task and draw the examples: a function of the whole list and the seed.

    Args:
        profile: whose rules hold.
        task_name: as in `--task`.
        items: all items of the task's data, in the order of its file.
        pool: its training items, in the order of their file; None where there are none.
        shots: examples per question.
        seed: of the order and the draws.
        draw: whether every question has its own examples or all have the same.

    Raises:
        DataError: nothing is left to score, or nothing to draw from.
    """
    scored, source = tuple(items), "the training items"
    drawn_from = None if pool is None else tuple(pool)
    if profile.cuts_to_official_test(task_name):
        scored = tuple(item for item in items if is_official_test(item.id))
        if not scored:
            raise DataError(
                f"{task_name}: none of its {len(items)} items is in PubMedQA's official test part, which is all "
                f"that the profile {profile.name} scores",
                "Give the whole ori_pqal.json, or use --profile paper, which scores every item.",
            )
        if drawn_from is None:
            drawn_from = tuple(item for item in items if not is_official_test(item.id))
            source = "the items outside the official test part"
    if not shots:
        return DrawnTask(tuple(draw_examples(scored, None, 0, seed)), None, None)
    if not profile.leaks:
        drawn_from = _keep_unscored(profile, task_name, scored, drawn_from or ())
    elif drawn_from is None:
        source = "the scored items, without the item itself"
    drawn = draw_examples(scored, drawn_from, shots, seed, draw=draw)
    return DrawnTask(tuple(drawn), drawn_from, f"{draw}, from {source}")


def _keep_unscored(
    profile: Profile, task_name: str, scored: Sequence[Question], pool: Sequence[Question]
) -> tuple[Question, ...]:
    """Return the pool without the scored items, told by their content: ids of two files may coincide."""
    contents = {(item.question, item.options, item.context) for item in scored}
    kept = tuple(item for item in pool if (item.question, item.options, item.context) not in contents)
    if not kept and pool:
        raise DataError(
            f"{task_name}: the profile {profile.name} draws no examples from the scored items, and all {len(pool):,} "
            "items of the pool are among them",
            f"Give the training items as --data {task_name}.train=FILE, not the scored ones again; or --shots 0.",
        )
    if not kept:
        raise DataError(
            f"{task_name}: the profile {profile.name} draws no examples from the scored items, and there are no "
            "others",
            f"Give --data {task_name}.train=FILE, or --shots 0, or --profile paper.",
        )
    return kept


_ALL = (
    Profile(
        "paper",
        1,
        "likelihood",
        "the published likelihood evaluation, with its leak and without BOS",
        Wordings(prompts.KNOWLEDGE_QUESTION, prompts.ABSTRACT_QUESTION, prompts.LABEL_QUESTION),
        headline_score="acc",
        bos="none",
        rolling_prefix="EOS",
        leaks=True,
    ),
    Profile(
        "clean",
        1,
        "likelihood",
        "the same prompts without the known defects: no leak, official test items, BOS as the model was trained",
        Wordings(
            prompts.KNOWLEDGE_QUESTION,
            replace(prompts.ABSTRACT_QUESTION, scored=" {option}", capitalizes_examples=True),
            replace(prompts.LABEL_QUESTION, scored=" {option}", capitalizes_examples=True),
        ),
        headline_score="acc",
        bos="convention",
        rolling_prefix="BOS, else EOS",
        official_test=True,
    ),
    Profile(
        "harness",
        1,
        "lm-eval",
        "lm-eval's current task of the same data, as it stands there",
        None,
        headline_score="acc",
        bos="convention",
        official_test=True,
    ),
    Profile(
        "instructed",
        1,
        "generation",
        "the published prompts of instructed models; exact match of generated text",
        Wordings(prompts.INSTRUCTED_QUESTION, prompts.INSTRUCTED_ABSTRACT, prompts.INSTRUCTED_LABEL),
        headline_score="exact_match",
        bos="convention",
    ),
    Profile(
        "finetuned",
        1,
        "generation",
        "the published prompts of models fine-tuned on a task; exact match of generated text",
        Wordings(
            prompts.FINETUNED_QUESTION,
            prompts.FINETUNED_ABSTRACT,
            replace(prompts.FINETUNED_QUESTION, normalizes_by_length=False),
        ),
        headline_score="exact_match",
        bos="convention",
    ),
    Profile(
        "cot",
        1,
        "generation",
        "sampled chains of thought after the instructed prompt; majority vote (the cues are this project's)",
        Wordings(prompts.CHAIN_QUESTION, prompts.CHAIN_ABSTRACT, prompts.CHAIN_LABEL),
        headline_score="majority_vote",
        bos="convention",
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL}
"""Every profile by name."""
