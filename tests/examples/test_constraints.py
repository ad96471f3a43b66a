"""constraints.txt: one tested version of every package that the product and its tests name, in the range."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def read_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    found = {canonicalize_name(name): version for name, version in pairs}
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize("requirement", read_requirements(), ids=str)
def test_every_requirement_has_a_tested_version_in_its_range(
    pins: dict[str, str], requirement: Requirement
) -> None:
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier


def test_nothing_is_pinned_that_is_not_required(pins: dict[str, str]) -> None:
    assert set(pins) == {canonicalize_name(requirement.name) for requirement in read_requirements()}
