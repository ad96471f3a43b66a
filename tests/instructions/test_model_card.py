"""The card of a tuned model: a header that hubs read, the strictest licence, the table of sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from biomedllama_cli.instructions.card import ModelFacts, write_model_card
from biomedllama_cli.instructions.drawing import draw
from biomedllama_cli.instructions.manifest import DrawnRows, MixtureManifest, build_manifest
from biomedllama_cli.instructions.mixture import LocatedSource, MissingSource, Mixture, MixtureSource


def make_manifest(folder: Path, licences: list[str], **fields: Any) -> MixtureManifest:
    path = folder / "examples.jsonl"
    path.write_text("{}", encoding="utf-8")
    sources = tuple(
        LocatedSource(
            MixtureSource.model_validate(
                {"source": f"s{number}", "format": "messages", "licence": licence, **fields}
            ),
            path,
        )
        for number, licence in enumerate(licences)
    )
    counts = {source.name: 40 for source in sources}
    lost = MissingSource(
        MixtureSource(source="lost", format="alpaca", published_samples=52_000), "the hub cannot be reached"
    )
    mixture = Mixture("mine", sources, (lost,))
    rows = draw(counts, mixture, 100, 2, 0)
    return build_manifest(mixture, DrawnRows(rows=rows, counts=counts, draws=100, epochs=2, seed=0))


def write(folder: Path, manifest: MixtureManifest, **fields: Any) -> tuple[dict[str, Any], str]:
    facts: dict[str, Any] = {
        "base_model": "someone/llama-7b",
        "method": "full",
        "command": "biomedllama instruct",
    }
    path = write_model_card(folder, ModelFacts(manifest=manifest, **{**facts, **fields}))
    assert path == folder / "README.md"
    _, header, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


@pytest.mark.parametrize(
    ("licences", "named", "other"),
    [
        (["MIT", "CC BY-NC 4.0"], "cc-by-nc-4.0", None),
        (["MIT", "Apache-2.0"], "apache-2.0", None),
        (["CC BY-NC", "academic only"], "other", "academic-only"),
        (["MIT", "nobody knows"], "other", "unknown"),
    ],
)
def test_the_header_carries_the_strictest_licence(
    tmp_path: Path, licences: list[str], named: str, other: str | None
) -> None:
    header, body = write(tmp_path, make_manifest(tmp_path, licences))
    assert header["license"] == named
    assert header.get("license_name") == other
    assert (
        f"**{make_manifest(tmp_path, licences).strictest_licence}** (s1)" in body or "**Apache-2.0**" in body
    )


def test_the_header_names_the_base_and_the_data_sets_of_the_hub(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, ["MIT", "MIT"], hub="someone/exam", file="x.jsonl")
    header, _ = write(tmp_path, manifest)
    assert header["base_model"] == "someone/llama-7b"
    assert header["base_model_relation"] == "finetune"
    assert header["datasets"] == ["someone/exam"]
    assert header["library_name"] == "transformers"
    assert "medical" in header["tags"]
    adapter, _ = write(tmp_path, manifest, adapter=True)
    assert (adapter["base_model_relation"], adapter["library_name"]) == ("adapter", "peft")


def test_a_folder_of_this_machine_is_no_base_model_of_a_hub(tmp_path: Path) -> None:
    base = tmp_path / "secret-place" / "llama"
    base.mkdir(parents=True)
    header, body = write(tmp_path, make_manifest(tmp_path, ["MIT"]), base_model=str(base))
    assert "base_model" not in header
    assert "datasets" not in header
    assert body.lstrip().startswith("# llama, tuned on the mixture mine\n\nllama, tuned")
    assert "secret-place" not in body


def test_the_table_shows_every_source_and_what_was_left_out(tmp_path: Path) -> None:
    manifest = make_manifest(
        tmp_path,
        ["MIT", "CC BY-NC 4.0"],
        published_share=0.25,
        published_samples=90,
        licence_note="exam | questions",
    )
    _, body = write(tmp_path, manifest, notes=("12 examples held benchmark items.",))
    rows = [line for line in body.splitlines() if line.startswith("| s")]
    for row, source in zip(rows, manifest.sources, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert cells[0] == f"{source.name} \\*"
        assert cells[2] == f"`{source.sha256[:16]}`"
        assert cells[3:5] == ["40", str(source.draws)]
        assert cells[-2:] == [f"{100 * source.draws / 200:.2f} %", "25.00 %"]
    assert "s0 is a substitute: 40 examples of examples.jsonl where the published mixture has 90" in body
    assert "- lost (52,000 examples) was left out, and its share went to the others.\n" in body
    assert "cannot be reached" not in body  # here, now: of no use to who reads the card
    assert "- s1: exam \\| questions" in body
    assert "Examples that may not be passed on: s0, s1." in body
    assert "12 examples held benchmark items." in body


def test_names_cannot_break_out_of_the_card(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, ["MIT"], substitute="<script>x</script>\n| a | b |")
    header, body = write(
        tmp_path,
        manifest,
        command="run ```\n# not a heading",
        base_model="x\n---\nlicense: other",
    )
    assert header["license"] == "mit"
    assert set(header) <= {"license", "language", "library_name", "pipeline_tag", "tags"}
    assert "<script>" not in body
    assert "# x --- license: other, tuned on the mixture mine\n" in body
    assert "````sh\nrun ```\n# not a heading\n````" in body


def test_the_same_facts_give_the_same_bytes(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, ["MIT", "CC BY"])
    write(tmp_path, manifest, versions={"torch": "2", "peft": "1"})
    first = (tmp_path / "README.md").read_bytes()
    write(tmp_path, manifest, versions={"peft": "1", "torch": "2"})
    assert (tmp_path / "README.md").read_bytes() == first
    assert b"With peft 1, torch 2:" in first


def test_rows_are_told_from_the_examples_they_were_drawn_from(tmp_path: Path) -> None:
    _, body = write(tmp_path, make_manifest(tmp_path, ["MIT", "MIT"]))
    assert "on 200 rows drawn from 80 examples of the mixture mine." in body
    assert "drawn with seed 0; chi-square " in body
    _, body = write(tmp_path, make_manifest(tmp_path, ["MIT"]))
    assert "2 x 100 rows, drawn with seed 0. Shares are of the rows" in body
