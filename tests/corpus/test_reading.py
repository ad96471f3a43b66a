"""Records come out of every format alike, and nothing is lost without a word."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from biomedllama_cli.corpus.document import Dropped, Record
from biomedllama_cli.corpus.source import Part, Source
from biomedllama_cli.corpus.sources import hub
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.pile import SUFFIXES, PileReader, iter_records
from biomedllama_cli.corpus.sources.sample import find_sample
from biomedllama_cli.corpus.sources.streams import iter_lines
from biomedllama_cli.errors import DataError, Resumable

ENDINGS = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"]


def read(path: Path) -> list[Record | Dropped]:
    (file,) = find_inputs((str(path),), SUFFIXES)
    return list(iter_records(file, "text"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_records(tmp_path: Path, records: Any, ending: str) -> None:
    texts = [records.make_text(i) for i in range(150)] + ["β-catenin\nnext line", "with \u0000 inside"]
    rows = [records.make_record(text, records.CENTRAL) for text in texts]
    found = read(records.write_records(tmp_path / f"a{ending}", rows))
    assert [record.text for record in found if isinstance(record, Record)] == texts
    assert {record.subset for record in found if isinstance(record, Record)} == {"PubMed Central"}
    unit = "row" if ending == ".parquet" else "line"
    assert found[2].where.endswith(f", {unit} 3")


def test_several_zstd_frames_and_gzip_members_are_one_stream(tmp_path: Path, records: Any) -> None:
    parts = [records.encode_lines([records.make_record(records.make_text(i))]) for i in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(map(zstandard.compress, parts)))
    (tmp_path / "b.jsonl.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    for name in ("a.jsonl.zst", "b.jsonl.gz"):
        assert [r.text for r in read(tmp_path / name)] == [records.make_text(i) for i in range(3)]


@given(st.binary(max_size=60), st.integers(1, 7))
def test_lines_do_not_depend_on_where_blocks_end(data: bytes, size: int) -> None:
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()  # what follows the last line end is no line
    assert list(iter_lines(iter(blocks))) == list(enumerate(lines, start=1))


def test_lines_end_as_windows_and_editors_write_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \n{"text": "b"}')
    assert [(r.text, r.where.split(", ")[1]) for r in read(tmp_path / "a.jsonl")] == [
        ("a", "line 1"),
        ("b", "line 4"),
    ]


def test_parquet_copies_with_meta_as_json_text_are_understood(tmp_path: Path, records: Any) -> None:
    rows = [{"text": "a", "meta": json.dumps({"pile_set_name": "PubMed Central"})}]
    assert read(records.write_records(tmp_path / "a.parquet", rows))[0].subset == "PubMed Central"


def test_inputs_keep_the_order_given_and_are_sorted_within(tmp_path: Path, records: Any) -> None:
    for name in ("d/b.jsonl", "d/a.jsonl.gz", "d/sub/c.parquet", "d/.hidden.jsonl", "d/notes.txt", "z.jsonl"):
        if name.endswith(".txt"):
            (tmp_path / name).write_text("no input")
        else:
            records.write_records(tmp_path / name, [records.make_record("x")])
    found = find_inputs(
        (str(tmp_path / "z.jsonl"), str(tmp_path / "d"), str(tmp_path / "d/*.jsonl")), SUFFIXES
    )
    assert [str(file.path.relative_to(tmp_path)) for file in found] == [
        "z.jsonl",
        "d/a.jsonl.gz",
        "d/b.jsonl",
        "d/sub/c.parquet",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.jsonl", "matches no file"), ("*.jsonl", "matches no file"), ("empty", "holds no file")],
)
def test_input_that_names_nothing_is_refused(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        find_inputs((str(tmp_path / name),), SUFFIXES)


@pytest.mark.parametrize("name", ["", "  "])
def test_empty_input_is_not_the_current_folder(
    tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    records.write_records(tmp_path / "a.jsonl", [records.make_record("x")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="names nothing"):
        find_inputs((name,), SUFFIXES)


def test_folders_that_a_glob_matches_are_read(tmp_path: Path, records: Any) -> None:
    for name in ("part-1/a.jsonl", "part-2/sub/b.jsonl", "part-3.jsonl", "part-4/notes.txt", "rest.jsonl"):
        records.write_records(tmp_path / name, [records.make_record("x")])
    found = find_inputs((str(tmp_path / "part-*"),), SUFFIXES)
    assert [str(file.path.relative_to(tmp_path)) for file in found] == [
        "part-1/a.jsonl",
        "part-2/sub/b.jsonl",
        "part-3.jsonl",
    ]


def test_linked_folders_are_read_once_and_a_loop_ends(tmp_path: Path, records: Any) -> None:
    records.write_records(tmp_path / "disk" / "b.jsonl", [records.make_record("x")])
    records.write_records(tmp_path / "in" / "a.jsonl", [records.make_record("x")])
    (tmp_path / "in" / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "same").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    found = find_inputs((str(tmp_path / "in"),), SUFFIXES)
    assert [str(file.path.relative_to(tmp_path)) for file in found] == ["in/a.jsonl", "in/link/b.jsonl"]


def test_signal_while_the_hub_is_read_is_not_taken_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        def shard(self, num_shards: int, index: int) -> Iterator[dict[str, str]]:
            yield {"text": "a"}
            raise Resumable("Stopped by SIGTERM.")

    monkeypatch.setattr(hub, "_stream", lambda *arguments: Rows())
    reader = hub.HubReader(hub.HubDataset("owner/name", "train", "commit", 1))
    (file,) = reader.list_inputs(())
    records = reader.iter_documents(file, lambda position: None)
    assert isinstance(next(records), Record)
    with pytest.raises(Resumable):
        next(records)


def test_unknown_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(DataError, match="none of the endings"):
        find_inputs((str(tmp_path / "a.csv"),), SUFFIXES)


@given(st.integers(0, 20), st.integers(1, 30))
def test_tasks_in_order_are_the_input_in_order(files: int, tasks: int) -> None:
    inputs = tuple(InputFile(Path(f"{i}.jsonl"), str(i), 1, 0) for i in range(files))
    source = Source((Part("pile", PileReader(), inputs),))
    count = source.count_tasks(tasks)
    assert 1 <= count <= max(files, 1)
    assert [file for rank in range(count) for _, file in source.part(rank, count)] == list(inputs)


def test_bundled_sample_is_read_whole() -> None:
    found = [record for file in find_sample() for record in iter_records(file, "text")]
    assert len(found) > 20
    assert all(isinstance(record, Record) and record.subset == "PubMed Central" for record in found)
