"""One pass per task: equal things are scored once, and what was scored is never asked again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from biomedllama_cli.errors import DataError
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.journal import open_journal
from biomedllama_cli.evaluation.likelihoods import (
    Ranks,
    hash_group,
    plan_documents,
    plan_questions,
    run_pass,
)
from biomedllama_cli.evaluation.profiles import PROFILES
from biomedllama_cli.evaluation.scorer import SharedPrefixScorer, TokenSequence
from biomedllama_cli.evaluation.variants import build_asked
from biomedllama_cli.models.tokenizer import load_tokenizer
from biomedllama_cli.tasks.question import Document, Question

IDENTITY = {"model": "m"}
METALS = ("Iron", "Zinc", "Tin")


def ask(profile, questions, tokenizer, **options):
    drawn = [(question, ()) for question in questions]
    return build_asked(PROFILES[profile], "medqa", drawn, adds_bos=tokenizer.adds_bos, **options)


def make_questions(count, *, options=METALS):
    return [Question(str(number), f"Which metal is number {number}?", options, 0) for number in range(count)]


def value_of(sequence: TokenSequence) -> float:
    return -float(sum(sequence.token_ids) % 1000 + sequence.scored)


class FakeScorer:
    """Answers with a number that follows from the tokens, and keeps what it was asked."""

    def __init__(self, also: tuple[int, ...] = ()) -> None:
        self.asked: list[int] = []
        self.also = also

    def score(
        self, groups, *, finished=frozenset(), rank=0, ranks=1
    ) -> Iterator[tuple[int, tuple[Likelihood, ...]]]:
        for number in range(rank, len(groups), ranks):
            if number in finished and number not in self.also:
                continue
            self.asked.append(number)
            yield (
                number,
                tuple(Likelihood(value_of(each), each.scored, False, True) for each in groups[number]),
            )


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(str(tiny_model.folder))


@pytest.fixture
def run(tmp_path):
    """Return a function that runs a pass with the journal of one command."""

    def start(scorer, work, task="medqa", ranks=None):
        with open_journal(tmp_path, IDENTITY) as journal:
            return run_pass(scorer, work, task, journal=journal, ranks=ranks or Ranks())

    return start


def test_options_without_their_question_are_scored_once_for_all(tokenizer):
    work = plan_questions(tokenizer, {"paper": ask("paper", make_questions(5), tokenizer)})
    assert len(work.groups) == 5 + 1
    assert sum(not name for name in work.names) == 1
    other = make_questions(6)
    other[3] = replace(other[3], options=("Lead", "Gold", "Iron"))
    assert len(plan_questions(tokenizer, {"paper": ask("paper", other, tokenizer)}).groups) == 6 + 2


def test_a_profile_that_asks_the_same_adds_nothing(tokenizer):
    questions = make_questions(4)
    alone = plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)})
    both = plan_questions(tokenizer, {name: ask(name, questions, tokenizer) for name in ("paper", "clean")})
    assert both.groups == alone.groups
    assert both.places["paper"] == both.places["clean"]


def test_a_profile_with_bos_stands_in_the_same_group(tiny_model_with_bos):
    tokenizer = load_tokenizer(str(tiny_model_with_bos.folder))
    questions = make_questions(4)
    work = plan_questions(tokenizer, {name: ask(name, questions, tokenizer) for name in ("paper", "clean")})
    assert len(work.groups) == 4 + 2
    numbers = {name: work.places[name][0]["text_space"] for name in ("paper", "clean")}
    assert {group for places in numbers.values() for group, _ in places} == {0}
    assert len(work.groups[0]) == 6


def test_questions_of_one_id_and_other_words_are_kept_apart(tokenizer):
    questions = [Question("7", "Which metal?", METALS, 0), Question("7", "Which other metal?", METALS, 1)]
    work = plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)})
    scored = work.assemble(
        {
            number: [Likelihood(value_of(each), each.scored, False, False) for each in group]
            for number, group in enumerate(work.groups)
        }
    )
    first, second = scored["paper"]
    assert first["text_space"] != second["text_space"]
    assert first["context_free"] == second["context_free"]


def test_each_answer_comes_back_to_its_option_and_variant(tokenizer, run):
    questions = make_questions(3)
    asked = {"paper": ask("paper", questions, tokenizer, matrix=True, permutations=3)}
    work = plan_questions(tokenizer, asked)
    scored = work.assemble(run(FakeScorer(), work))
    for one, likelihoods in zip(asked["paper"], scored["paper"], strict=True):
        assert set(likelihoods) == {variant.name for variant in one.variants}
        for variant in one.variants:
            for continuation, likelihood in zip(
                variant.continuations, likelihoods[variant.name], strict=True
            ):
                ids = tokenizer.encode(variant.context + continuation)
                scored_tokens = len(ids) - len(tokenizer.encode(variant.context.rstrip()))
                prefix = () if variant.context.strip() else (tokenizer.eos_id,)
                expected = TokenSequence((*prefix, *ids), scored_tokens)
                assert (likelihood.value, likelihood.tokens) == (value_of(expected), scored_tokens)


def test_a_pass_gives_what_the_model_gives_alone(tiny_model, tokenizer, run):
    questions = make_questions(3)
    work = plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)})
    scored = work.assemble(run(SharedPrefixScorer(tiny_model.model, context_length=512), work))
    for question, likelihoods in zip(questions, scored["paper"], strict=True):
        context = f"Question: {question.question}\nAnswer:"
        for option, likelihood in zip(METALS, likelihoods["text_space"], strict=True):
            expected = tiny_model.score_option(context, f" {option}", 512)
            assert likelihood.value == pytest.approx(expected, abs=1e-4)


def test_an_option_longer_than_the_context_is_named_with_task_and_question(tokenizer, tmp_path):
    questions = make_questions(3)
    questions[1] = replace(questions[1], id="q-17", options=("Iron", "Zinc " * 40, "Tin"))
    work = plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)})
    with (
        open_journal(tmp_path, IDENTITY) as journal,
        pytest.raises(
            DataError, match=r"medqa: an option of the question q-17 has \d+ tokens.* holds 32 "
        ) as error,
    ):
        run_pass(FakeScorer(), work, "medqa", journal=journal, ranks=Ranks(), context_length=32)
    assert "--context-length" in error.value.hint


def test_what_the_journal_knows_is_not_scored_again(tokenizer, run):
    work = plan_questions(tokenizer, {"paper": ask("paper", make_questions(4), tokenizer)})
    first, second = FakeScorer(), FakeScorer()
    found = run(first, work)
    assert run(second, work) == found
    assert (len(first.asked), second.asked) == (len(work.groups), [])


def test_what_is_computed_once_more_changes_nothing(tokenizer, run, tmp_path):
    work = plan_questions(tokenizer, {"paper": ask("paper", make_questions(4), tokenizer)})
    found = run(FakeScorer(), work)
    lines = [path.read_text() for path in tmp_path.rglob("finished-*.jsonl")]
    again = FakeScorer(also=(0, 2))
    assert run(again, work) == found
    assert again.asked == [0, 2]
    assert [path.read_text() for path in tmp_path.rglob("finished-*.jsonl")] == lines


def test_an_entry_is_never_taken_for_another_group_pass_or_task(tokenizer, run):
    questions = make_questions(4)
    run(FakeScorer(), plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)}))
    questions[2] = replace(questions[2], question="Which metal is another one?")
    work = plan_questions(tokenizer, {"paper": ask("paper", questions, tokenizer)})
    changed, other_task, known = FakeScorer(), FakeScorer(), FakeScorer()
    found = run(changed, work)
    run(other_task, work, task="medmcqa")
    # The last bits of a number follow from its row, and the rows from all groups: all are scored again.
    assert changed.asked == other_task.asked == list(range(len(work.groups)))
    for number, group in enumerate(work.groups):
        assert [one.value for one in found[number]] == [value_of(each) for each in group]
    run(known, work)
    assert known.asked == []


def test_the_hash_of_a_group_sees_ids_order_and_what_is_scored():
    base = (TokenSequence((1, 2, 3), 1), TokenSequence((1, 2, 4), 1))
    others = [
        (TokenSequence((1, 2, 3), 2), base[1]),
        (base[1], base[0]),
        base[:1],
        (TokenSequence((1, 23), 1), base[1]),
    ]
    assert len({hash_group(group) for group in (base, *others)}) == 5


def test_journal_entries_name_task_and_question(tokenizer, run, tmp_path):
    run(FakeScorer(), plan_questions(tokenizer, {"paper": ask("paper", make_questions(2), tokenizer)}))
    (path,) = tmp_path.rglob("finished-0.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["task"], record["id"]) for record in records] == [
        ("medqa", "0"),
        ("medqa", ""),
        ("medqa", "1"),
    ]


def test_every_rank_gets_what_all_have_found(tokenizer, tmp_path):
    work = plan_questions(tokenizer, {"paper": ask("paper", make_questions(5), tokenizer)})
    shared: dict[int, list[list[float | int]]] = {}

    def gather(found):
        shared.update(found)
        return dict(shared)

    scorers = [FakeScorer(), FakeScorer()]
    with (
        open_journal(tmp_path, IDENTITY) as first,
        open_journal(tmp_path, IDENTITY, rank=1) as second,
    ):
        for rank, journal in enumerate((first, second)):
            ranks = Ranks(rank, 2, gather)
            found = run_pass(scorers[rank], work, "medqa", journal=journal, ranks=ranks)
    assert list(found) == list(range(len(work.groups)))
    assert not set(scorers[0].asked) & set(scorers[1].asked)
    alone = {
        number: [Likelihood(value_of(each), each.scored, False, True) for each in group]
        for number, group in enumerate(work.groups)
    }
    assert {number: list(values) for number, values in found.items()} == alone


def test_windows_of_documents_add_up_to_the_document(tiny_model, tokenizer, run):
    texts = ["Iron is carried by transferrin. " * 40, "Short.", "Zinc " * 100]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    work = plan_documents(tokenizer, documents, prefix_id=tokenizer.eos_id, context_length=64)
    assert work.tokens == tuple(len(tokenizer.encode(text)) for text in texts)
    assert [len(numbers) for numbers in work.windows] == [-(-count // 64) for count in work.tokens]
    sums = work.assemble(run(SharedPrefixScorer(tiny_model.model, context_length=64), work))
    short = [tokenizer.eos_id, *tokenizer.encode("Short.")]
    assert sums[1] == pytest.approx(tiny_model.score_ids(short, 1), abs=1e-4)
    expected = 0.0
    for number in work.windows[0]:
        (window,) = work.groups[number]
        ids = list(window.token_ids)
        expected += tiny_model.score_ids(ids, len(ids) - window.scored)
    assert sums[0] == pytest.approx(expected, abs=1e-3)


def test_a_document_of_5000_tokens_is_scored_once_per_token(tokenizer):
    document = Document("long", "a b c d e " * 1000)
    work = plan_documents(tokenizer, [document], prefix_id=1, context_length=512)
    assert work.tokens[0] >= 5000
    assert sum(group[0].scored for group in work.groups) == work.tokens[0]
    assert max(len(group[0].token_ids) for group in work.groups) == 513
    assert set(work.names) == {"long"}
