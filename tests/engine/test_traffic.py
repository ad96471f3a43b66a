"""What ranks send each other, counted by hand; real jobs are held against it in tests/distributed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from biomedllama_cli.engine.fsdp_groups import group_parameters
from biomedllama_cli.engine.sharding import MeshShape
from biomedllama_cli.engine.traffic import (
    Collective,
    ParameterGroup,
    count_link_bytes,
    plan_context_traffic,
    plan_traffic,
)

LAYER = ParameterGroup(((6, 5), (5,)))  # on 4 ranks: 2 x 5 and 2 numbers each
TABLE = ParameterGroup(((8, 5),), is_kept=True)


def build_llama(*, tied: bool) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=3,
                num_attention_heads=4,
                tie_word_embeddings=tied,
            )
        )


def test_untied_tables_are_groups_of_their_own_and_the_last_one_is_kept() -> None:
    model = build_llama(tied=False)
    groups = group_parameters(model)
    assert [group.is_kept for group in groups] == [False] * 4 + [True]
    assert groups[3].shapes == ((64, 32),)
    assert groups[4].shapes == ((32,), (64, 32))
    assert sum(group.numbers for group in groups) == sum(each.numel() for each in model.parameters())


def test_a_tied_table_is_counted_once() -> None:
    model = build_llama(tied=True)
    groups = group_parameters(model)
    assert [group.is_kept for group in groups] == [False] * 3 + [True]
    assert sum(group.numbers for group in groups) == sum(each.numel() for each in model.parameters())


def test_what_no_layer_and_no_table_holds_is_the_last_group() -> None:
    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=24))
    groups = group_parameters(model)
    assert groups[-1].shapes == ((24, 16),)  # positions
    assert groups[-1].is_kept
    assert sum(group.numbers for group in groups) == sum(each.numel() for each in model.parameters())


def test_a_shard_is_padded_and_gathered_twice_unless_it_is_kept() -> None:
    traffic = plan_traffic([LAYER, TABLE], MeshShape(1, 4), "full", compute_bytes=2)
    assert traffic.each_micro_batch == (
        Collective("all_gather", "shard", 4, 4 * 12 * 2, calls=2),
        Collective("reduce_scatter", "shard", 4, 4 * 12 * 4),
        Collective("all_gather", "shard", 4, 4 * 10 * 2, calls=1),
        Collective("reduce_scatter", "shard", 4, 4 * 10 * 4),
    )
    assert traffic.last_micro_batch == ()


def test_zero2_gathers_once_and_sends_the_same_gradients() -> None:
    twice, once = (
        plan_traffic([LAYER], MeshShape(2, 4), strategy, compute_bytes=2)
        for strategy in ("hybrid", "hybrid-zero2")
    )
    assert [each.calls for each in twice.each_micro_batch] == [2, 1]
    assert [each.calls for each in once.each_micro_batch] == [1, 1]
    assert (
        twice.last_micro_batch == once.last_micro_batch == (Collective("all_reduce", "replicate", 2, 12 * 4),)
    )


def test_ranks_that_share_sequences_hold_shards_too() -> None:
    shared = plan_traffic([LAYER], MeshShape(1, 2, cp_size=2), "hybrid", compute_bytes=4)
    assert shared == plan_traffic([LAYER], MeshShape(1, 4), "hybrid", compute_bytes=4)


def test_copies_send_whole_gradients_once_and_one_process_sends_nothing() -> None:
    traffic = plan_traffic([LAYER, TABLE], MeshShape(8, 1), "replicate", compute_bytes=2)
    assert traffic.list_all(16) == [(Collective("all_reduce", "replicate", 8, (35 + 40) * 4), 1)]
    for strategy in ("full", "hybrid", "hybrid-zero2", "replicate"):
        assert plan_traffic([LAYER], MeshShape(1, 1), strategy, compute_bytes=2).list_all(16) == []


def sum_up(traffic: Iterable[tuple[Collective, int]]) -> Counter[tuple[str, str]]:
    """Return what each rank sends in a step, by operation and axis."""
    sums = Counter[tuple[str, str]]()
    for one, times in traffic:
        sums[one.kind, one.axis] += one.sent_bytes * times
    return sums


def test_what_a_rank_sends_grows_with_the_micro_batches_but_for_what_comes_last() -> None:
    traffic = plan_traffic([LAYER], MeshShape(2, 4), "hybrid", compute_bytes=2)
    few, many = (sum_up(traffic.list_all(steps)) for steps in (1, 5))
    assert many["all_gather", "shard"] == 5 * few["all_gather", "shard"] == 5 * 2 * 96 * 3 // 4
    assert many["reduce_scatter", "shard"] == 5 * few["reduce_scatter", "shard"]
    assert many["all_reduce", "replicate"] == few["all_reduce", "replicate"] == 48


@pytest.mark.parametrize(
    ("strategy", "mesh", "inside", "across"),
    [
        # A ring through 8 nodes of 4 passes every byte over every link.
        ("full", MeshShape(1, 32), True, "gathers and gradients"),
        ("hybrid", MeshShape(8, 4), True, "gradients, once"),
        ("replicate", MeshShape(32, 1), True, "gradients, once"),
        ("hybrid", MeshShape(1, 32), True, "gathers and gradients"),
    ],
)
def test_only_sharding_across_nodes_sends_every_micro_batch_there(
    strategy: str, mesh: MeshShape, inside: bool, across: str
) -> None:
    group = ParameterGroup(((3200, 100),))
    traffic = plan_traffic([group], mesh, strategy, compute_bytes=2)  # type: ignore[arg-type]
    few, many = (count_link_bytes(traffic.list_all(count), mesh, ranks_per_node=4) for count in (1, 4))
    assert (many.inside > 0) == inside
    if across == "gradients, once":
        assert many.across == few.across
        # Once around all copies and back, for the whole model.
        assert many.across == pytest.approx(2 * 4 * group.numbers, rel=0.15)
    else:
        assert many.across == 4 * few.across == pytest.approx(4 * 8 * group.numbers, rel=0.05)


def test_on_one_node_nothing_crosses() -> None:
    for strategy, mesh in (
        ("full", MeshShape(1, 4)),
        ("replicate", MeshShape(4, 1)),
        ("hybrid", MeshShape(2, 2)),
    ):
        traffic = plan_traffic([LAYER], mesh, strategy, compute_bytes=2)  # type: ignore[arg-type]
        link = count_link_bytes(traffic.list_all(2), mesh, ranks_per_node=4)
        assert link.across == 0
        assert link.inside > 0


def test_shared_sequences_gather_keys_and_values_of_every_layer() -> None:
    mesh = MeshShape(1, 2, cp_size=4)
    gathers, sums = plan_context_traffic(mesh, layers=3, key_value_numbers=100, compute_bytes=2)
    assert gathers == Collective("all_gather", "context", 4, 200, calls=6)
    assert sums == Collective("reduce_scatter", "context", 4, 400, calls=6)
    again, _ = plan_context_traffic(mesh, layers=3, key_value_numbers=100, compute_bytes=2, recomputes=True)
    assert again.calls == 12
    assert plan_context_traffic(MeshShape(1, 8), layers=3, key_value_numbers=100, compute_bytes=2) == ()
