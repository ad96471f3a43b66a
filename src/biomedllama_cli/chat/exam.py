"""What a model would answer in the exam, and why: a question's options as `evaluate` scores them.

Everything is asked and scored by `evaluate`'s own functions, so the numbers are those of `evaluate --matrix` on a file
with this one question, to the bit. On a file of several, questions share rows with others, which changes the last bits
of a log-likelihood.
"""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from biomedllama_cli.chat.exam_answer import ExamAnswer, FormAnswer
from biomedllama_cli.chat.exam_question import ExamQuestion
from biomedllama_cli.engine.model_fit import find_positions
from biomedllama_cli.errors import SettingsError
from biomedllama_cli.evaluation.harness_journal import NoJournal
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.likelihoods import Ranks, Scored, plan_questions, run_pass
from biomedllama_cli.evaluation.profiles import Profile, find_profile
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer
from biomedllama_cli.evaluation.scores import own_likelihoods, score_options
from biomedllama_cli.evaluation.variants import CONTEXT_FREE, PREMISE_PREFIX, build_asked, headline_form
from biomedllama_cli.models.tokenizer import Tokenizer
from biomedllama_cli.settings.evaluate import ProtocolSettings

_TASK = "questions"
"""What the questions are to `evaluate`: one's own."""
_CUDA_BATCH_SIZE = 8
"""Rows per forward, as in `evaluate`."""


class Exam:
    """Ask a model multiple-choice questions as `evaluate` does.

    The model is left as it was found. It is examined at the first question, once.

    Args:
        model: a transformers causal language model, on its device.
        tokenizer: of the model.
        context_length: longest input (in tokens); None takes that of `evaluate`. The model's own limit is respected.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, context_length: int | None = None
    ) -> None:
        limit = find_positions(model.config)
        wanted = context_length or ProtocolSettings().context_length
        self.context_length = wanted if limit is None else min(wanted, limit)
        self._model = model
        self._tokenizer = tokenizer
        self._scorer: SharedPrefixScorer | None = None

    def ask(self, question: ExamQuestion, profile_name: str = "paper") -> ExamAnswer:
        """Return what the model gives to the options in every form and normalisation that `evaluate` has.

        Args:
            question: as `parse_exam` returns it.
            profile_name: the protocol; neither `harness` nor `cot`.

        Raises:
            SettingsError: there is no such profile, or it scores no options by itself.
            DataError: an option has no token of its own, or more than the context holds.
            ModelError: the model's answers are not finite.
        """
        profile = check_profile(profile_name, question)
        (asked,) = build_asked(
            profile, _TASK, [(question.as_question(), ())], adds_bos=self._tokenizer.adds_bos, matrix=True
        )
        work = plan_questions(self._tokenizer, {profile.name: [asked]})
        found = run_pass(
            self._build_scorer(),
            work,
            _TASK,
            journal=NoJournal(),  # nothing that is typed is written anywhere
            ranks=Ranks(),
            context_length=self.context_length,
        )
        (scored,) = work.assemble(found)[profile.name]
        return _collect(profile, question, asked, scored, self)

    @property
    def dtype(self) -> str:
        """Precision of the model, as transformers calls it: `bfloat16`."""
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def device(self) -> str:
        """Kind of device: `cpu` or `cuda`."""
        return str(self._model.device.type)

    def _build_scorer(self) -> SharedPrefixScorer:
        if self._scorer is None:
            self._scorer = SharedPrefixScorer(
                self._model,
                context_length=self.context_length,
                batch_size=_CUDA_BATCH_SIZE if self.device == "cuda" else 1,
            )
        return self._scorer


def check_profile(profile_name: str, question: ExamQuestion) -> Profile:
    """Return the profile of a name, which must score the options of a question by itself.

    Raises:
        SettingsError: there is no such profile, or it does not.
    """
    profile = find_profile(profile_name)
    if profile.method == "lm-eval":
        raise SettingsError(
            f"profile {profile.name} is asked by lm-eval itself, which takes whole tasks and no single question",
            "Take the profile paper or clean: --profile clean, or `/set profile clean`.",
        )
    if headline_form(profile, question.as_question()) is None:
        raise SettingsError(
            f"profile {profile.name} reads its answers from chains of thought and scores no options",
            "Take the profile instructed, which asks the same without the chain: --profile instructed, or "
            "`/set profile instructed`.",
        )
    return profile


def _collect(
    profile: Profile, question: ExamQuestion, asked: Asked, scored: Scored, exam: Exam
) -> ExamAnswer:
    """Return what the likelihoods say, form by form, the profile's own first."""
    variants = {variant.name: variant for variant in asked.variants}
    forms = tuple(
        FormAnswer(
            name=name,
            prompt=variant.context,
            continuations=variant.continuations,
            likelihoods=scored[name],
            premise=variants[PREMISE_PREFIX + name].context,
            premise_likelihoods=scored[PREMISE_PREFIX + name],
        )
        for name, variant in variants.items()
        if PREMISE_PREFIX + name in variants
    )
    assert forms[0].likelihoods == own_likelihoods(profile, asked, scored)
    shown = profile.prompt_for(asked.question).options_of(asked.question)
    return ExamAnswer(
        question=replace(question, options=shown),
        profile=str(profile),
        summary=profile.summary,
        generates=profile.method == "generation",
        bos=asked.variants[0].bos,
        forms=forms,
        without_question=scored[CONTEXT_FREE],
        scores={name: tuple(values) for name, values in score_options(profile, asked, scored).items()},
        context_length=exam.context_length,
        dtype=exam.dtype,
        device=exam.device,
    )
