"""The memory of a step that is rehearsed without any, against that of the real one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from biomedllama_cli.engine.fsdp_groups import group_parameters
from biomedllama_cli.engine.plan_memory import plan_state
from biomedllama_cli.engine.plan_step import Rehearsal, rehearse_step
from biomedllama_cli.models.load import load_model
from biomedllama_cli.models.scratch import build_scratch_config
from biomedllama_cli.recipes.forecast_memory import list_savers

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


@needs_linux
@pytest.mark.parametrize(
    ("precision", "checkpointing", "memory", "rows", "length"),
    [
        ("fp32", "none", "chunks", 4, 256),
        ("bf16", "none", "fused", 4, 512),
        ("bf16", "selective", "fused", 4, 512),
        ("bf16", "full", "fused", 4, 512),
    ],
)
def test_the_predicted_memory_is_that_of_a_real_run(
    precision: str, checkpointing: str, memory: str, rows: int, length: int
) -> None:
    arguments = ["scratch:15m", precision, checkpointing, memory, str(rows), str(length)]
    program = Path(__file__).with_name("planned_run.py")
    ran = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout.splitlines()[-1])
    config = build_scratch_config("scratch:15m", 8000)
    rehearsal = Rehearsal(rows, length, precision, loss_memory=memory)
    step = rehearse_step(config, rehearsal, list_savers()[checkpointing])
    model = load_model("scratch:15m", vocabulary_size=8000)
    state = plan_state(group_parameters(model), "replicate", 1, 4)
    predicted = measured["before"] + state.total + step.total
    assert predicted == pytest.approx(measured["peak"], rel=0.1)
    # The program is a large part of a small run: what training adds to it has to be right as well.
    assert state.total + step.total == pytest.approx(measured["peak"] - measured["before"], rel=0.2)


def test_a_step_of_many_layers_is_rehearsed_with_few() -> None:
    config = build_scratch_config("scratch:110m", 4000)
    rehearsal = Rehearsal(1, 256, "bf16", sharded=True)
    config.num_hidden_layers = 12
    exact = rehearse_step(config, rehearsal)
    config.num_hidden_layers = 16
    further = rehearse_step(config, rehearsal)
    layer = (further.total - exact.total) / 4
    config.num_hidden_layers = 40
    assert rehearse_step(config, rehearsal).total == pytest.approx(exact.total + 28 * layer, rel=0.01)


def test_what_is_computed_again_is_not_kept() -> None:
    config = build_scratch_config("scratch:110m", 4000)
    totals = [
        rehearse_step(config, Rehearsal(2, 512, "bf16"), saver).total for saver in list_savers().values()
    ]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.4 * totals[0]


def test_where_casts_of_the_weights_outweigh_activations_full_still_takes_the_least() -> None:
    config = build_scratch_config("scratch:110m", 1000)
    savers = list_savers()
    selective, full = (
        rehearse_step(config, Rehearsal(1, 64, "bf16", accumulates=True), savers[mode]).total
        for mode in ("selective", "full")
    )
    assert full < selective


def test_eager_attention_keeps_all_scores() -> None:
    config = build_scratch_config("scratch:15m", 1000)
    rows, length = 2, 512
    scores = config.num_hidden_layers * rows * config.num_attention_heads * length**2 * 4
    plain, eager = (
        rehearse_step(config, Rehearsal(rows, length, "fp32", kind)).total for kind in ("sdpa", "eager")
    )
    assert eager - plain > 0.7 * scores  # at most; the peak may be where the first layer is gone already


def test_logits_are_counted_as_the_loss_keeps_them() -> None:
    config = build_scratch_config("scratch:15m", 32_000)
    rows, length = 2, 1024
    found = {
        memory: rehearse_step(config, Rehearsal(rows, length, "fp32", loss_memory=memory)).logits_peak
        for memory in ("plain", "chunks", "fused")
    }
    assert found["plain"] == 3 * rows * length * config.vocab_size * 4  # and their logarithms and gradients
    assert found["fused"] < 0.7 * found["chunks"] < 0.5 * found["plain"]


def test_gradients_that_fsdp_takes_away_are_not_counted() -> None:
    config = build_scratch_config("scratch:15m", 1000)
    sharded = rehearse_step(config, Rehearsal(1, 128, "bf16", sharded=True))
    whole = rehearse_step(config, Rehearsal(1, 128, "bf16"))
    assert sharded.total < whole.total
    assert rehearse_step(config, Rehearsal(2, 128, "bf16", sharded=True)).total > 1.5 * sharded.total
