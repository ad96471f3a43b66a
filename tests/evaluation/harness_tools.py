"""What the tests of the harness share: literal tasks, plain lm-eval beside ours, and a comparison of both."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from biomedllama_cli.evaluation.harness import SharedPrefixLM
from biomedllama_cli.evaluation.harness_quiet import quiet_harness

TOLERANCE = 1e-4
SINGLE_PRECISION = 1.2e-7
"""lm-eval sums in fp32: a sum of thousands of nats is rounded by more than the tolerance."""


def load_harness_rows() -> Any:
    """Return the benchmarks' module of literal tasks."""
    name = "biomedllama_benchmarks_harness_rows"
    if name not in sys.modules:
        path = Path(__file__).resolve().parents[2] / "benchmarks" / "harness_rows.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def build_pair(
    folder: Path, *, only_ours: dict[str, Any] | None = None, **options: Any
) -> tuple[HFLM, SharedPrefixLM]:
    """Return plain lm-eval's model and ours, of one folder with the same options."""
    given = {"pretrained": str(folder), "device": "cpu", "dtype": "float32", "batch_size": 2, **options}
    with quiet_harness():
        return HFLM(**given), SharedPrefixLM(**given, **(only_ours or {}))


def assert_equal_samples(ours: list[dict[str, Any]], plain: list[dict[str, Any]]) -> None:
    """Check that both scored the same texts, with the same numbers, flags and metrics."""
    numbers = load_harness_rows().log_likelihoods
    assert len(ours) == len(plain) > 0
    for mine, other in zip(ours, plain, strict=True):
        assert mine["arguments"] == other["arguments"]
        assert numbers(mine) == pytest.approx(numbers(other), abs=TOLERANCE, rel=SINGLE_PRECISION)
        if isinstance(mine["resps"][0][0], tuple):
            assert [one[0][1] for one in mine["resps"]] == [one[0][1] for one in other["resps"]]
        for metric in mine["metrics"]:
            assert mine[metric] == pytest.approx(other[metric], abs=TOLERANCE, rel=SINGLE_PRECISION)
