"""Let a model write its answers, read them, and put them beside what the options' likelihood says."""

from __future__ import annotations

from collections.abc import Sequence

from biomedllama_cli.evaluation.generation import GenerationRule, Generator, Prompt
from biomedllama_cli.evaluation.jobs import Asked
from biomedllama_cli.evaluation.journal import digest
from biomedllama_cli.evaluation.profiles import Profile
from biomedllama_cli.recipes.evaluate_run import Run
from biomedllama_cli.report.progress import Progress

PUBLISHED_NEW_TOKENS = 128
"""Longest answer of the published evaluation (in tokens)."""
CHAIN_NEW_TOKENS = 512
"""Longest chain of thought (in tokens)."""


def build_rule(run: Run, profile: Profile) -> GenerationRule:
    """Return how a profile's answers are generated: greedy as published, chains of thought sampled."""
    generation = run.settings.generation
    chains = profile.name == "cot"
    return GenerationRule(
        max_new_tokens=generation.max_new_tokens or (CHAIN_NEW_TOKENS if chains else PUBLISHED_NEW_TOKENS),
        temperature=generation.temperature if chains else 0.0,
        top_p=generation.top_p if chains else 1.0,
        seed=run.settings.seed,
        adds_bos=profile.puts_bos(run.subject.tokenizer.adds_bos),
    )


def generate_texts(
    run: Run, task: str, profile: Profile, asked: Sequence[Asked], generator: Generator
) -> list[list[str]]:
    """Return the generated texts of each question: one, or one per chain of thought; finished ones are found again.

    Args:
        run: the evaluation.
        task: its name, for the journal.
        profile: whose prompts are continued.
        asked: the questions in order.
        generator: continues prompts.
    """
    chains = run.settings.generation.chains if profile.name == "cot" else 1
    rule = build_rule(run, profile)
    prompts = [
        Prompt(one.question.id, profile.prompt_of(one.question, one.examples), chain)
        for one in asked
        for chain in range(chains)
    ]
    keys = [
        f"{profile} {task} {number} " + digest([prompt.text, prompt.chain, str(rule)])[:16]
        for number, prompt in enumerate(prompts)
    ]
    found: dict[int, str] = {}
    for number, key in enumerate(keys):
        known = run.journal.find(key)
        if known is not None:
            found[number] = known
    with Progress(f"answering {task}", len(prompts), "answers") as progress:
        tick = run.ticking(progress.advance)
        progress.start_at(len(found))
        stream = generator.generate(prompts, rule, frozenset(found), rank=run.job.rank, ranks=run.job.ranks)
        for number, text in stream:
            run.journal.append(keys[number], task, prompts[number].id, text)
            found[number] = text
            tick(False)
    texts = run.job.gather(found)
    return [[texts[start + chain] for chain in range(chains)] for start in range(0, len(prompts), chains)]
