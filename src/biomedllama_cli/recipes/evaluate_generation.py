"""Let a model write its answers, read them, and put them beside what the options' likelihood says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from biomedllama_cli.evaluation.generation import Generator
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.journal import digest
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.evaluation.prompting import GenerationRule, Prompt, encode_prompts, find_truncated
from biomedllama_cli.models.chat_template import Template, choose_template
from biomedllama_cli.models.tuning_facts import read_tuning_facts
from biomedllama_cli.recipes.evaluate_run import Run
from biomedllama_cli.report.progress import Progress

PUBLISHED_NEW_TOKENS = 128
"""Longest answer of the published evaluation (in tokens)."""
CHAIN_NEW_TOKENS = 512
"""Longest chain of thought (in tokens)."""


CHAIN_STOPS = ("\n###", "\nQuestion:")
"""Where a chain of thought goes on to a question of its own."""
CLOSING_NEW_TOKENS = 64
"""Longest answer after a finished chain of thought (in tokens)."""


def build_rule(run: Run, profile: Profile) -> GenerationRule:
    """Return how a profile's answers are generated: greedy as published, chains of thought sampled."""
    generation = run.settings.generation
    chains = profile.name == "cot"
    template = choose_run_template(run)
    return GenerationRule(
        max_new_tokens=generation.max_new_tokens or (CHAIN_NEW_TOKENS if chains else PUBLISHED_NEW_TOKENS),
        temperature=generation.temperature if chains else 0.0,
        top_p=generation.top_p if chains else 1.0,
        seed=run.settings.seed,
        stop=CHAIN_STOPS if chains else (),
        adds_bos=profile.puts_bos(run.subject.tokenizer.adds_bos),
        template=template,
        end_ids=() if template is None else template.end_ids,
    )


def choose_run_template(run: Run) -> Template | None:
    """Return the chat template that prompts are wrapped in; None for plain text, as published.

    `auto` takes one only where the checkpoint says that it was tuned with it: that a model brings a template does not
    mean that its published results were had with it.

    Raises:
        SettingsError: a chat template is asked for, or the checkpoint was tuned with one, and it has none.
        DataError: its template takes no question of a user.
    """
    source, wanted = run.subject.facts.source, run.settings.protocol.template
    if wanted == "auto":
        facts = read_tuning_facts(source)
        wanted = "plain" if facts is None else facts.template
    if wanted == "plain":
        return None
    template = choose_template(run.subject.tokenizer, source, "chat")
    template.render([("user", "Hello")], add_generation_prompt=True)  # one that takes no question is told now
    return template


def describe_generation(run: Run, profile: Profile) -> dict[str, Any] | None:
    """Return what a profile's answers depend on besides the prompt; None where none are generated."""
    if profile.method != "generation":
        return None
    rule = build_rule(run, profile)
    return {
        "max_new_tokens": rule.max_new_tokens,
        "temperature": rule.temperature,
        "top_p": rule.top_p,
        "chains": _count_chains(run, profile),
        "backend": run.settings.generation.backend,
        "template": "plain" if rule.template is None else "chat",
    }


def _count_chains(run: Run, profile: Profile) -> int:
    return run.settings.generation.chains if profile.name == "cot" else 1


def count_truncated(run: Run, profile: Profile, asked: Sequence[Asked]) -> int:
    """Return how many prompts lose their left end, so that the answer has room."""
    rule, subject = build_rule(run, profile), run.subject
    prompts = [Prompt(one.question.id, _ask(profile, one, rule)) for one in asked]
    return len(find_truncated(encode_prompts(subject.tokenizer, prompts, rule, subject.context_length)))


def generate_texts(
    run: Run, task: str, profile: Profile, asked: Sequence[Asked], generator: Generator
) -> list[list[str]]:
    """Return the generated texts of each question: one, or one per chain of thought with the answer it leads to.

    Args:
        run: the evaluation.
        task: its name, for the journal.
        profile: whose prompts are continued.
        asked: the questions in order.
        generator: continues prompts.
    """
    chains = _count_chains(run, profile)
    rule = build_rule(run, profile)
    prompts = [
        Prompt(one.question.id, _ask(profile, one, rule), chain) for one in asked for chain in range(chains)
    ]
    texts = _continue(run, f"{profile} {task}", prompts, rule, generator)
    closings = [profile.prompt_for(one.question).closing for one in asked for _ in range(chains)]
    if any(closings):
        # A chain of thought is asked for its answer, as in the work that introduced them (arXiv:2205.11916).
        led = [text.rstrip() + closing for text, closing in zip(texts, closings, strict=True)]
        again = [replace(prompt, begun=text) for prompt, text in zip(prompts, led, strict=True)]
        short = replace(rule, max_new_tokens=min(rule.max_new_tokens, CLOSING_NEW_TOKENS), temperature=0.0)
        answers = _continue(run, f"{profile} {task} closing", again, short, generator)
        texts = [text + answer for text, answer in zip(led, answers, strict=True)]
    return [texts[start : start + chains] for start in range(0, len(prompts), chains)]


def _ask(profile: Profile, one: Asked, rule: GenerationRule) -> str:
    """Return what is asked; in a chat template the answer's opening bracket is the assistant's, as in training."""
    prompt = profile.prompt_of(one.question, one.examples)
    return prompt if rule.template is None else prompt.removesuffix("(")


def _continue(
    run: Run, what: str, prompts: Sequence[Prompt], rule: GenerationRule, generator: Generator
) -> list[str]:
    """Return the text after each prompt; those that an earlier start finished are found again."""
    keys = [
        f"{what} {number} " + digest([rule.show(prompt), prompt.chain, str(rule)])[:16]
        for number, prompt in enumerate(prompts)
    ]
    found: dict[int, str] = {}
    for number, key in enumerate(keys):
        known = run.journal.find(key)
        if known is not None:
            found[number] = known
    with Progress(f"answering {what}", len(prompts), "answers") as progress:
        tick = run.ticking(progress.advance)
        progress.start_at(len(found))
        stream = generator.generate(prompts, rule, frozenset(found), rank=run.job.rank, ranks=run.job.ranks)
        for number, text in stream:
            run.journal.append(keys[number], what, prompts[number].id, text)
            found[number] = text
            tick(False)
    texts = run.job.gather(found)
    return [texts[number] for number in range(len(prompts))]
