"""Archives and articles that unpack to far more than they are: passed over in bounded memory, and counted."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Measure = Callable[[str, Path], tuple[int, str, int]]
READER = "biomedllama_cli.corpus.sources.pmc:PmcReader"


def write_bomb(path: Path, head: bytes, piece: bytes, megabytes: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(head)
        block = piece * ((1 << 20) // len(piece))
        for _ in range(megabytes):
            stream.write(block)


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "head", "piece", "found"),
    [
        ("bomb.xml.gz", b"<article><p>", b"x", "record_too_large"),
        ("bomb.tar.gz", header("a.xml", tarfile.REGTYPE, GIB), b"x", "truncated_archive"),
        ("bomb.tar.gz", header("PMC1.1.json", tarfile.REGTYPE, GIB), b" ", "truncated_archive"),
        ("bomb.tar.gz", header("a.bin", tarfile.REGTYPE, GIB), b"\0", "truncated_archive"),
        ("bomb.tar.gz", header("long", tarfile.GNUTYPE_LONGNAME, GIB), b"x", "broken_archive"),
        ("bomb.tar.gz", header("pax", tarfile.XHDTYPE, GIB), b"12 comment=x\n", "broken_archive"),
        ("bomb.tar.gz", header("global", tarfile.XGLTYPE, GIB), b"12 comment=x\n", "truncated_archive"),
        ("bomb.tar.gz", header("link", tarfile.GNUTYPE_LONGLINK, GIB), b"x", "truncated_archive"),
        ("bomb.tar.gz", header("a.xml", tarfile.GNUTYPE_SPARSE, 0), b"\1", "broken_archive"),
        ("bomb.tar.gz", b"", b"\0", "-"),
    ],
    ids=["file", "member", "json", "other", "name", "pax", "global", "link", "sparse", "zeros"],
)
def test_bomb_stays_small_in_memory(
    tmp_path: Path, measure: Measure, name: str, head: bytes, piece: bytes, found: str
) -> None:
    bomb = tmp_path / name
    write_bomb(bomb, head, piece, 320)
    assert bomb.stat().st_size < 4 << 20
    records, told, megabytes = measure(READER, tmp_path)
    assert (records, told) == (0, found)
    assert megabytes < 160


def test_line_of_one_gigabyte_in_an_archive_stays_small_in_memory(
    tmp_path: Path, pmc_files: Any, measure: Measure
) -> None:
    good = pmc_files.write_tar(tmp_path / "good.tar", [("b.xml", pmc_files.make_jats(1))])
    bomb = tmp_path / "bomb.tar.gz"
    write_bomb(bomb, header("a.xml", tarfile.REGTYPE, GIB), b"x", 1024)
    bomb.write_bytes(bomb.read_bytes() + gzip.compress(good.read_bytes()))
    good.unlink()
    records, told, megabytes = measure(READER, tmp_path)
    assert (records, told) == (1, "record_too_large")
    assert megabytes < 160


def test_article_of_nothing_but_tags_stays_small_in_memory(tmp_path: Path, measure: Measure) -> None:
    write_bomb(tmp_path / "bomb.xml.gz", b"<article><body>", b"<p/>", 60)
    records, told, megabytes = measure(READER, tmp_path)
    assert (records, told) == (0, "record_too_large")
    assert megabytes < 320
