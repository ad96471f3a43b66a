"""Which prefixes are computed once for many questions, and which questions stand in a row together."""

from __future__ import annotations

import numpy as np
from scorer_reference import draw, make_mixed, make_questions

from biomedllama_cli.evaluation.preambles import Preambles, choose_preambles
from biomedllama_cli.evaluation.row_plans import Limits, plan_batches
from biomedllama_cli.evaluation.token_trees import Group, TokenSequence, TreeInput, build_tree

GENERATOR = np.random.default_rng(0)
COMMON = draw(GENERATOR, 100, 1000)
LIMITS = Limits(context_length=200, row_tokens=128, multiple=16)


def make_groups(*starts: tuple[int, ...]) -> list[Group]:
    generator = np.random.default_rng(1)
    return [
        tuple(TokenSequence((*start, *middle, option), 1) for option in range(2))
        for start, middle in ((start, draw(generator, 20, 1000)) for start in starts)
    ]


def chosen(groups: list[Group], context_length: int = 200) -> list[tuple[int, ...]]:
    return [tuple(ids.tolist()) for ids in choose_preambles(groups, context_length).token_ids]


def test_longest_common_prefix_of_all_questions_is_a_preamble() -> None:
    assert chosen(make_groups(*[COMMON] * 5)) == [COMMON]


def test_prefix_of_two_long_questions_is_worth_less_than_a_row_costs() -> None:
    assert chosen(make_groups(COMMON, COMMON)) == []


def test_of_nested_prefixes_those_are_taken_that_save_more() -> None:
    first, second = ((*COMMON[:40], *draw(GENERATOR, 60, 1000)) for _ in range(2))
    # Apart: 2 x 5 x 100 tokens saved; together 11 x 40.
    assert sorted(chosen(make_groups(*[first] * 6, *[second] * 6))) == sorted([first, second])
    # Pairs of questions begin alike, but what all twenty share saves more.
    pairs = [(*COMMON[:40], *draw(GENERATOR, 5, 1000)) for _ in range(10)]
    assert chosen(make_groups(*pairs, *pairs)) == [COMMON[:40]]


def test_preamble_ends_before_the_first_scored_position() -> None:
    groups = [(TokenSequence((*COMMON, option), 1),) for option in range(8)]
    assert chosen(groups) == [COMMON[:99]]


def test_sequences_cut_from_the_left_take_part_in_no_preamble() -> None:
    groups = make_groups(*[COMMON] * 5)
    assert chosen(groups, context_length=119) == []
    preambles = Preambles([np.array(COMMON)])
    assert preambles.attach(np.array((*COMMON[1:], 5, 6)), 1).offset == 0
    assert preambles.attach(np.array((*COMMON, 5, 6)), 1).offset == 100


def test_every_group_stands_in_exactly_one_row_whatever_the_batch_size() -> None:
    groups = make_questions(50, preamble=48) + make_mixed()
    preambles = choose_preambles(groups, 100)
    plans = [plan_batches(groups, preambles, LIMITS, size) for size in (1, 3)]
    rows = [[row for batch in plan for row in batch] for plan in plans]
    assert rows[0] == rows[1]
    assert sorted(number for row in rows[0] for number in row.groups) == list(range(len(groups)))
    assert all(row.length % 16 == 0 for row in rows[0])
    assert {len(batch) for batch in plans[0]} == {1}
    assert all(len({(row.length, row.preambles, row.chain) for row in batch}) == 1 for batch in plans[1])


def test_rows_are_filled() -> None:
    rows = [row for batch in plan_batches(make_questions(100), Preambles([]), LIMITS, 1) for row in batch]
    assert sum(row.length for row in rows) / (len(rows) * LIMITS.row_tokens) > 0.97


def test_group_larger_than_a_row_has_one_of_its_own() -> None:
    (((row,),)) = plan_batches(make_questions(1, context=(150, 160)), Preambles([]), LIMITS, 1)
    assert row.groups == (0,)
    assert row.length > LIMITS.row_tokens
    assert not row.chain


def test_node_sees_its_ancestors_and_no_other() -> None:
    generator = np.random.default_rng(5)
    inputs = [generator.integers(0, 3, int(generator.integers(1, 9))) for _ in range(40)]
    tree = build_tree([TreeInput(ids, root=number % 2) for number, ids in enumerate(inputs)])
    places = np.arange(len(tree.token_ids))
    sees = (places[None] <= places[:, None]) & (places[:, None] < tree.ends[None])
    for ids, path in zip(inputs, tree.paths, strict=True):
        assert tree.token_ids[path].tolist() == ids.tolist()
        assert tree.depths[path].tolist() == list(range(len(ids)))
        assert np.flatnonzero(sees[path[-1]]).tolist() == path.tolist()
    assert len(tree.token_ids) == len(
        {(n % 2, tuple(ids[:k])) for n, ids in enumerate(inputs) for k in range(1, len(ids) + 1)}
    )
