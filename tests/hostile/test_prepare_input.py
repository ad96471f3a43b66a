"""Broken and malicious input of `prepare`: told with file and line, or counted; never lost, never fatal."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from biomedllama_cli.corpus.manifest import load_corpus
from biomedllama_cli.corpus.sources import streams
from biomedllama_cli.errors import DataError
from biomedllama_cli.models.tokenizer import load_tokenizer, train_tokenizer
from biomedllama_cli.recipes.prepare import PrepareReport, prepare
from biomedllama_cli.settings.prepare import PrepareSettings

Run = Callable[..., PrepareReport]
GOOD = [f"Document {i} on serum ferritin in anaemic patients, part {i * 7}." for i in range(40)]
# Not ru_maxrss, which begins with what the test's own process needed.
READ_PEAK = """
import sys
from biomedllama_cli.corpus.sources.files import find_inputs
from biomedllama_cli.corpus.sources.pile import SUFFIXES, iter_records

def read_peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

"""


def line(text: object) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(GOOD, 330, folder, seed=0)
    return folder


@pytest.fixture
def run(tmp_path: Path, tokenizer: Path) -> Run:
    def start(path: Path, on_bad_record: str = "error", workers: int = 1) -> PrepareReport:
        return prepare(
            PrepareSettings.model_validate(
                {
                    "output_dir": tmp_path / "corpus",
                    "source": {"input": (str(path),), "on_bad_record": on_bad_record},
                    "tokenization": {"tokenizer": str(tokenizer)},
                    "executor": {"workers": workers},
                }
            )
        )

    return start


def check_error_then_skip(run: Run, path: Path, where: str, reason: str, *, kept: int) -> None:
    """Assert that the record stops a strict run with its place, and that a lenient one counts it."""
    with pytest.raises(DataError, match=where) as caught:
        run(path)
    assert str(path) in caught.value.message
    assert "--on-bad-record skip" in caught.value.hint
    assert not list(path.parent.glob("*corpus*")), "an error with nothing to keep left something behind"
    manifest = run(path, "skip").manifest
    assert manifest is not None
    assert manifest.documents.dropped == {reason: 1}
    assert (manifest.documents.kept, manifest.documents.read) == (kept, kept + 1)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"text": "half a li\n', "broken_json"),
        (b"not json at all\n", "broken_json"),
        (b'{"text": NaN}\n', "broken_json"),
        (b"[" * 100_000 + b"\n", "broken_json"),
        (b'{"text": "\xe9t\xe9"}\n', "not_utf8"),
        (b'{"text": "\\ud83d alone"}\n', "lone_surrogate"),
        (b'{"title": "no text"}\n', "missing_text"),
        (b'{"text": null}\n', "text_not_a_string"),
        (b'{"text": ["a"]}\n', "text_not_a_string"),
        (b'["text"]\n', "not_an_object"),
        (b'"text"\n', "not_an_object"),
    ],
)
def test_bad_line_is_told_with_its_number_or_counted(
    run: Run, tmp_path: Path, bad: bytes, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(map(line, GOOD[:7])) + bad + b"".join(map(line, GOOD[7:])))
    check_error_then_skip(run, path, r"a\.jsonl, line 8:", reason, kept=40)


@pytest.mark.parametrize("cut", [3, 40, -5, -1])
@pytest.mark.parametrize("ending", ["zst", "gz"])
def test_truncated_stream_is_never_taken_for_a_short_file(
    run: Run, tmp_path: Path, ending: str, cut: int
) -> None:
    data = b"".join(map(line, GOOD))
    whole = (
        zstandard.ZstdCompressor(write_checksum=True).compress(data)
        if ending == "zst"
        else gzip.compress(data)
    )
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(whole[:cut])
    with pytest.raises(DataError, match=r"a\.jsonl\.\w+, line \d+: the \w+ stream is truncated"):
        run(path)


@pytest.mark.parametrize("compress", [zstandard.compress, gzip.compress], ids=["zst", "gz"])
def test_lines_before_the_break_are_kept_when_skipping(
    run: Run, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    name = "a.jsonl.zst" if compress is zstandard.compress else "a.jsonl.gz"
    first, second = b"".join(map(line, GOOD[:20])), b"".join(map(line, GOOD[20:]))
    path = tmp_path / name
    path.write_bytes(compress(first) + compress(second)[:-30])
    with pytest.raises(DataError, match="the rest of the file is lost"):
        run(path)
    manifest = run(path, "skip").manifest
    assert manifest is not None
    assert manifest.documents.dropped == {"truncated_stream": 1}
    assert 20 <= manifest.documents.kept < 40


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet"])
def test_file_that_is_not_what_its_name_says(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(map(line, GOOD)))
    with pytest.raises(DataError, match="damaged"):
        run(path)


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz"])
def test_garbage_after_the_stream_is_told(run: Run, tmp_path: Path, name: str) -> None:
    compress = zstandard.compress if name.endswith("zst") else gzip.compress
    path = tmp_path / name
    path.write_bytes(compress(b"".join(map(line, GOOD))) + b"garbage behind the stream")
    check_error_then_skip(run, path, "line 41:", "broken_stream", kept=40)


@pytest.mark.parametrize(
    ("values", "kind"),
    [(["a", None, "b"], pa.string()), ([1, 2, 3], pa.int64()), ([b"a", b"\xff", b"b"], pa.binary())],
)
def test_parquet_column_of_the_wrong_kind(
    run: Run, tmp_path: Path, values: list[object], kind: pa.DataType
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array(values, kind)}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row [12]: its 'text' is \w+, not a string"):
        run(path)


def test_parquet_without_the_column_and_truncated(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": GOOD}), path)
    with pytest.raises(DataError, match="has no field 'text'"):
        run(path)
    pq.write_table(pa.table({"text": GOOD}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged"):
        run(path)


def test_error_comes_back_whole_from_a_worker_process(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"".join(map(line, GOOD[:20])))
    (folder / "b.jsonl").write_bytes(line(GOOD[21]) + b"oops\n")
    with pytest.raises(DataError, match=r"b\.jsonl, line 2: the line is not JSON") as caught:
        run(folder, workers=2)
    assert "--on-bad-record skip" in caught.value.hint
    # What the strict run finished is worth keeping when the same job goes on leniently.
    report = run(folder, "skip", workers=2)
    assert report.manifest is not None
    assert report.manifest.documents.dropped == {"broken_json": 1}


def test_special_tokens_spelled_in_a_document_do_not_end_it(
    run: Run, tmp_path: Path, tokenizer: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(line("before </s> after <s> again") + line(GOOD[0]))
    run(path)
    loaded = load_tokenizer(str(tokenizer))
    corpus = load_corpus(tmp_path / "corpus")
    shards = corpus.train + corpus.validation
    ids = [i for shard in shards for i in shard.token_ids.tolist()]
    assert (ids.count(loaded.bos_id), ids.count(loaded.eos_id)) == (2, 2)


def test_too_long_line_is_passed_over_without_being_held(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.iter_lines, "__defaults__", (1000,))
    path = tmp_path / "a.jsonl"
    path.write_bytes(line(GOOD[0]) + line("x" * 5000) + b"".join(map(line, GOOD[1:])))
    check_error_then_skip(run, path, "line 2: the line is longer than", "line_too_long", kept=40)


def test_decompression_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    size = 600 << 20
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    bomb = tmp_path / "bomb.jsonl.zst"
    with bomb.open("wb") as file:
        for _ in range(size >> 20):
            file.write(compressor.compress(b"x" * (1 << 20)))
        file.write(compressor.flush())
    assert bomb.stat().st_size < 1 << 20
    code = (
        "before = read_peak()\n"
        "found = [r.reason for r in iter_records(find_inputs((sys.argv[1],), SUFFIXES)[0], 'text')]\n"
        "print(','.join(found), read_peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", READ_PEAK + code, str(bomb)], capture_output=True, text=True, check=True
    )
    reasons, megabytes = result.stdout.split()
    assert reasons == "line_too_long"
    assert int(megabytes) < 256


def test_row_group_as_large_as_the_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    draw = random.Random(0)
    for name, rows in (("small", 1000), ("large", 4000)):
        texts = [draw.randbytes(10_000).hex() for _ in range(rows)]  # 80 MB in the large one
        pq.write_table(pa.table({"text": texts}), tmp_path / f"{name}.parquet", compression="zstd")
    code = (
        "for path in sys.argv[1:]:\n"
        "    count = sum(len(r.text) == 20_000 for r in iter_records(find_inputs((path,), SUFFIXES)[0], 'text'))\n"
        "    print(count, read_peak())\n"
    )
    paths = [str(tmp_path / f"{name}.parquet") for name in ("small", "large")]
    command = [sys.executable, "-c", READ_PEAK + code, *paths]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in result.stdout.splitlines())
    assert (few, many) == (1000, 4000)
    assert after - before < 80
