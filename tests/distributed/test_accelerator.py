"""What is refused before a process joins a job, and what one process gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import distributed

from biomedllama_cli.engine.accelerator import (
    COLLECTIVE_TIMEOUT,
    build_accelerator,
    prepare,
    set_gradient_sync,
    warn_of_idle_devices,
)
from biomedllama_cli.engine.fsdp_groups import find_decoder_layer_names
from biomedllama_cli.engine.job import SHARE_TIMEOUT, join_job
from biomedllama_cli.engine.rank import EXPECTED_WORLD_SIZE
from biomedllama_cli.engine.sharding import MeshShape, World, choose_mesh
from biomedllama_cli.errors import ModelError, SettingsError, UnavailableError, WorkerError
from biomedllama_cli.models.description import describe_model
from biomedllama_cli.models.load import load_model
from biomedllama_cli.recipes.training import build_loop_settings, describe_mfu
from biomedllama_cli.settings.pretrain import (
    NumericsSettings,
    ParallelSettings,
    PretrainParallelSettings,
    PretrainSettings,
)

FP32 = NumericsSettings(precision="fp32")


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", EXPECTED_WORLD_SIZE):
        monkeypatch.delenv(name, raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("sizes", "numbers"),
    [
        ({"dp_replicate_size": 3}, "3 x dp_shard_size 2 = 6"),
        ({"dp_shard_size": 3}, "2 x dp_shard_size 3 = 6"),
        ({"dp_replicate_size": 4, "dp_shard_size": 4}, "4 x dp_shard_size 4 = 16"),
        ({"dp_replicate_size": 16}, "16 x dp_shard_size 1 = 16"),
    ],
)
def test_a_mesh_of_another_size_is_refused_with_its_numbers(sizes: dict[str, int], numbers: str) -> None:
    with pytest.raises(SettingsError, match=numbers) as caught:
        choose_mesh(ParallelSettings(**sizes), World(world_size=8, local_world_size=4))
    assert "which is 8 (4 on this node)" in caught.value.message


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sharding": "full", "dp_replicate_size": 2}, "dp_replicate_size is 2, but with sharding full"),
        ({"sharding": "full", "dp_shard_size": 4}, "1 x dp_shard_size 4 = 4"),
        ({"sharding": "replicate", "dp_shard_size": 4}, "dp_shard_size is 4, but with sharding replicate"),
        ({"sharding": "replicate", "dp_replicate_size": 4}, "4 x dp_shard_size 1 = 4"),
        ({"cp_size": 3}, "cp_size is 3, but must divide the number of processes, which is 8"),
        ({"cp_size": 2, "dp_replicate_size": 3}, "3 x dp_shard_size 1 x cp_size 2 = 6"),
    ],
)
def test_sizes_that_contradict_the_strategy_are_refused(asked: dict[str, Any], message: str) -> None:
    parallel = PretrainParallelSettings(**asked)
    with pytest.raises(SettingsError, match=message):
        choose_mesh(parallel, World(world_size=8, local_world_size=4))


def test_a_group_that_lies_across_two_nodes_by_half_is_refused() -> None:
    with pytest.raises(SettingsError, match="divide the number of processes of a node, which is 6"):
        choose_mesh(PretrainParallelSettings(cp_size=4), World(world_size=12, local_world_size=6))


@pytest.mark.parametrize(
    ("asked", "mesh"),
    [
        ({"sharding": "full"}, (1, 32, 1)),
        ({"sharding": "hybrid"}, (8, 4, 1)),
        ({"sharding": "hybrid-zero2"}, (8, 4, 1)),
        ({"sharding": "replicate"}, (32, 1, 1)),
        ({"dp_replicate_size": 4}, (4, 8, 1)),
        ({"dp_shard_size": 2}, (16, 2, 1)),
        ({"dp_replicate_size": 1, "dp_shard_size": 32}, (1, 32, 1)),
        ({"cp_size": 4}, (8, 1, 4)),
        ({"cp_size": 8}, (4, 1, 8)),
        ({"sharding": "full", "cp_size": 4}, (1, 8, 4)),
        ({"sharding": "replicate", "cp_size": 2}, (16, 1, 2)),
    ],
)
def test_the_mesh_follows_from_nodes_and_strategy(asked: dict[str, Any], mesh: tuple[int, int, int]) -> None:
    chosen = choose_mesh(PretrainParallelSettings(**asked), World(world_size=32, local_world_size=4))
    assert chosen == MeshShape(*mesh)


def test_a_mesh_for_several_is_refused_in_one_process() -> None:
    with pytest.raises(SettingsError, match="2 x dp_shard_size 1 = 2"):
        build_accelerator(ParallelSettings(dp_replicate_size=2, device="cpu"), FP32)


def test_a_job_of_another_size_than_was_launched_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXPECTED_WORLD_SIZE, "4")
    with pytest.raises(WorkerError, match="4 processes were asked for, but the job that started has 1"):
        build_accelerator(ParallelSettings(device="cpu"), FP32)


def test_processes_that_another_launcher_did_not_start_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="num_processes is 4, but 2 were started on this node"):
        build_accelerator(ParallelSettings(num_processes=4, device="cpu"), FP32)


def test_a_world_size_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(SettingsError, match="WORLD_SIZE is 'many'"):
        build_accelerator(ParallelSettings(device="cpu"), FP32)


def test_fp16_is_refused_on_the_cpu() -> None:
    with pytest.raises(SettingsError, match="fp16, which needs CUDA"):
        build_accelerator(ParallelSettings(device="cpu"), NumericsSettings(precision="fp16"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnavailableError, match="device is cuda"):
        build_accelerator(ParallelSettings(device="cuda"), FP32)


@pytest.mark.parametrize(("asked", "started", "warned"), [(None, 2, True), (None, 4, False), (2, 2, False)])
def test_devices_that_no_process_uses_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: int | None,
    started: int,
    warned: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    warn_of_idle_devices(ParallelSettings(num_processes=asked), World(8, started))
    assert ("4 CUDA devices, but only 2 of its processes" in caplog.text) == warned
    assert bool(caplog.messages) == warned


def test_one_process_trains_the_model_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    accelerator = build_accelerator(ParallelSettings(device="cpu"), FP32)
    assert accelerator.gradient_accumulation_steps == 1
    model = load_model("scratch:tiny", vocabulary_size=64, eos_id=2)
    kind, forward = type(model), model.forward
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    prepared, wrapped = prepare(accelerator, model, optimizer)
    set_gradient_sync(prepared, is_last_micro_batch=False)
    assert prepared is model
    assert type(prepared) is kind
    assert prepared.forward == forward
    before = model.lm_head.weight.detach().clone()
    accelerator.backward(model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.sum())
    gradient = model.lm_head.weight.grad.clone()
    wrapped.step()
    assert torch.allclose(model.lm_head.weight, before - 0.5 * gradient)


def test_a_model_without_declared_layers_cannot_be_sharded() -> None:
    model = load_model("scratch:tiny", vocabulary_size=64, eos_id=2)
    assert find_decoder_layer_names(model) == ["LlamaDecoderLayer"]
    model._no_split_modules = None
    with pytest.raises(ModelError, match="does not declare its decoder layers"):
        find_decoder_layer_names(model)


def test_processes_that_have_trained_wait_as_long_for_the_shares_of_an_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    # The group of a job as training starts it, here with this process alone.
    distributed.init_process_group(
        "gloo", store=distributed.HashStore(), rank=0, world_size=1, timeout=COLLECTIVE_TIMEOUT
    )
    try:
        gloo = distributed.group.WORLD._get_backend(torch.device("cpu"))
        assert gloo.options._timeout == COLLECTIVE_TIMEOUT
        join_job(ParallelSettings(device="cpu"))
        assert gloo.options._timeout == SHARE_TIMEOUT
    finally:
        distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def test_frozen_weights_cost_less_than_trained_ones_in_the_mfu() -> None:
    accelerator = build_accelerator(ParallelSettings(device="cpu"), FP32)
    settings = PretrainSettings(monitor={"peak_flops": 1e12})
    model = load_model("scratch:tiny", vocabulary_size=64)
    whole = build_loop_settings(settings, describe_model(model), accelerator)
    frozen = model.model.layers[0].requires_grad_(False)
    description = describe_model(model)
    half = build_loop_settings(settings, description, accelerator)
    count = sum(parameter.numel() for parameter in frozen.parameters())
    assert whole.flops_per_token - half.flops_per_token == 2 * count
    assert f"6 N - 2 F + 6 L A T = {half.flops_per_token / 1e9:.5g} GFLOP" in describe_mfu(half, description)
