"""Members of tar archives, read as they stream by: nothing is written anywhere and no more than one is held.

Python's tarfile takes headers of any length into memory (pax records, long names, maps of sparse files); of it
only the decoding of one 512-byte header is used here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from biomedllama_cli.corpus.sources.streams import BrokenStreamError

UNSAFE = "unsafe_archive_member"
_BLOCK = tarfile.BLOCKSIZE
_MAX_HEADER_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 43  # 8 TiB: a number that is no size
_GNU_NAME, _GNU_LINK, _SPARSE = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE
_PAX, _PAX_GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_WITHOUT_DATA = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive.

    Attributes:
        name: as the archive says, for looking at only: it may be anything.
        data: its bytes; empty when it has a problem.
        problem: (snake_case reason, end of a sentence) for one that cannot be used, or None.
    """

    name: str
    data: bytes = b""
    problem: tuple[str, str] | None = None


def iter_members(blocks: Iterator[bytes], suffixes: tuple[str, ...], max_bytes: int) -> Iterator[Member]:
    """Yield the files of a tar archive whose names end so, and whatever has no business in one.

    Links, devices, and names that lead out of the archive come with the problem `unsafe_archive_member`, files
    longer than `max_bytes` with `record_too_large`.

    Args:
        blocks: the archive, decompressed, in pieces.
        suffixes: endings wanted; other files are passed over.
        max_bytes: longest file held (in bytes).

    Raises:
        BrokenStreamError: the archive is damaged, breaks off, or holds a sparse file.
    """
    stream = _ForwardStream(blocks)
    overrides: dict[str, str] = {}
    while (header := _read_header(stream)) is not None:
        if header.type == _GNU_NAME:
            overrides["path"] = _decode(_read_data(stream, header.size, _MAX_HEADER_BYTES).rstrip(b"\0"))
        elif header.type in _PAX:
            overrides |= parse_pax(_read_data(stream, header.size, _MAX_HEADER_BYTES))
        elif header.type in (_GNU_LINK, _PAX_GLOBAL):
            stream.skip(_pad(header.size))
        elif header.type == _SPARSE:
            raise BrokenStreamError("broken_archive", "the archive holds a sparse file")
        else:
            member = _read_member(stream, header, overrides, (suffixes, max_bytes))
            overrides = {}
            if member is not None:
                yield member


def _read_member(
    stream: _ForwardStream,
    header: tarfile.TarInfo,
    overrides: dict[str, str],
    wanted: tuple[tuple[str, ...], int],
) -> Member | None:
    """Return a member that matters and move behind its data."""
    suffixes, max_bytes = wanted
    name = overrides.get("path", header.name)
    size = 0 if header.type in _WITHOUT_DATA else _parse_size(overrides.get("size"), header.size)
    unsafe = _find_danger(name, header)
    if unsafe is None and header.isreg() and name.endswith(suffixes) and size <= max_bytes:
        return Member(name, _read_data(stream, size, max_bytes))
    stream.skip(_pad(size))
    if header.isdir():
        return None
    if unsafe is not None:
        return Member(name, problem=(UNSAFE, unsafe))
    if not name.endswith(suffixes):
        return None
    return Member(name, problem=("record_too_large", f"it is longer than {max_bytes} bytes"))


def _find_danger(name: str, header: tarfile.TarInfo) -> str | None:
    r"""Return what is dangerous about a member, or None.

    >>> _find_danger("a/../../etc/passwd", tarfile.TarInfo())
    "its name leads out of the archive's folder"
    >>> _find_danger("C:\\a.xml", tarfile.TarInfo()), _find_danger("./PMC1/a..b.xml", tarfile.TarInfo())
    ('its name is absolute', None)
    """
    if header.issym() or header.islnk():
        return "it is a link"
    if not header.isreg() and not header.isdir():
        return "it is neither a file nor a folder"
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "its name is absolute"
    return "its name leads out of the archive's folder" if ".." in parts else None


def parse_pax(data: bytes) -> dict[str, str]:
    r"""Return the records `LENGTH KEY=VALUE\n` of an extended header.

    >>> parse_pax(b"11 path=ab\n11 size=12\n")
    {'path': 'ab', 'size': '12'}

    Raises:
        BrokenStreamError: they are malformed.
    """
    records = {}
    start = 0
    while start < len(data) and data[start : start + 1] != b"\0":
        length, _, _ = data[start : start + 20].partition(b" ")
        end = start + int(length) if length.isdigit() else 0
        key, equals, value = data[start + len(length) + 1 : end].partition(b"=")
        if end <= start or end > len(data) or not equals or not value.endswith(b"\n"):
            raise BrokenStreamError("broken_archive", "an extended header of the archive is malformed")
        records[_decode(key)] = _decode(value[:-1])
        start = end
    return records


def _read_header(stream: _ForwardStream) -> tarfile.TarInfo | None:
    """Return the next header, or None at the end; archives joined end to end are read through."""
    ended = False
    while True:
        block = stream.read(_BLOCK)
        if not block and ended:
            return None
        if len(block) < _BLOCK:
            raise BrokenStreamError("truncated_archive", "the archive breaks off")
        if block.count(0) < _BLOCK:
            break
        ended = True
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except (tarfile.HeaderError, ValueError) as error:
        raise BrokenStreamError("broken_archive", f"a header of the archive is damaged ({error})") from None
    _parse_size(None, header.size)
    return header


def _parse_size(override: str | None, size: int) -> int:
    if override is not None:
        size = int(override) if override.isascii() and override.isdigit() and len(override) < 20 else -1
    if not 0 <= size <= _MAX_MEMBER_BYTES:
        raise BrokenStreamError("broken_archive", "a header of the archive states an impossible size")
    return size


def _read_data(stream: _ForwardStream, size: int, max_bytes: int) -> bytes:
    if size > max_bytes:
        raise BrokenStreamError("broken_archive", f"a header of the archive is longer than {max_bytes} bytes")
    data = stream.read(size)
    if len(data) < size:
        raise BrokenStreamError("truncated_archive", "the archive breaks off")
    stream.skip(_pad(size) - size)
    return data


def _pad(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class _ForwardStream:
    """Bytes of blocks in portions of any length, without a way back.

    Args:
        blocks: the bytes.
    """

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks = blocks
        self.block = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        return b"".join(self._take(size))

    def skip(self, size: int) -> None:
        """Pass over `size` bytes.

        Raises:
            BrokenStreamError: there are fewer.
        """
        if sum(map(len, self._take(size))) < size:
            raise BrokenStreamError("truncated_archive", "the archive breaks off")

    def _take(self, size: int) -> Iterator[memoryview]:
        while size > 0:
            if not self.block:
                block = next(self.blocks, None)
                if block is None:
                    return
                self.block = memoryview(block)
            part = self.block[:size]
            self.block = self.block[size:]
            size -= len(part)
            yield part
