"""PubMed Central's articles on disk: JATS files, archives of them, and the layout of NLM's bucket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from biomedllama_cli.corpus.document import Dropped, Item
from biomedllama_cli.corpus.jats.parsing import MAX_BYTES
from biomedllama_cli.corpus.sources.archives import UNSAFE, Member, iter_members
from biomedllama_cli.corpus.sources.files import InputFile, find_inputs
from biomedllama_cli.corpus.sources.pmc_article import (
    ArticleFile,
    build_document,
    find_metadata,
    find_metadata_time,
    parse_name,
)
from biomedllama_cli.corpus.sources.streams import BrokenStreamError, iter_blocks
from biomedllama_cli.errors import DataError
from biomedllama_cli.settings.prepare import ArticleSettings

logger = logging.getLogger(__name__)

_ARTICLES = (".xml", ".nxml")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_METADATA = ".json"


@dataclass(frozen=True)
class PmcReader:
    """Read articles, each with its metadata JSON where there is one.

    A file named `PMC<number>.<version>.xml` belongs to the metadata `PMC<number>.<version>.json` beside it or in the
    folder `metadata` beside it or beside its folder; in an archive, to the one before or after it.

    Attributes:
        options: what becomes text.
    """

    options: ArticleSettings = field(default_factory=ArticleSettings)

    suffixes: ClassVar[tuple[str, ...]] = (*_ARTICLES, ".xml.gz", ".nxml.gz", *_ARCHIVES)

    def list_inputs(self, patterns: tuple[str, ...]) -> list[InputFile]:
        """Return the files and archives, in the order given and sorted by path within each.

        A file is as new as its metadata: they can retract it, or change its licence.

        Args:
            patterns: files, folders or globs.

        Raises:
            DataError: a pattern names nothing readable.
        """
        return [
            replace(file, modified_ns=max(file.modified_ns, find_metadata_time(file.path)))
            for file in find_inputs(patterns, self.suffixes)
        ]

    def iter_documents(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        """Yield the article of a file, or every article of an archive.

        Args:
            file: what to read.
            report_position: told the bytes of the file consumed so far.

        Raises:
            DataError: the file cannot be opened.
        """
        try:
            if self.holds_one(file):
                yield self._read_file(file, report_position)
            else:
                yield from self._iter_archive(file, report_position)
        except OSError as error:
            raise DataError(f"Input {file.label} cannot be read: {error.strerror or error}.") from None

    def holds_one(self, file: InputFile) -> bool:
        """Tell whether a file is one article, not an archive."""
        return not file.path.name.endswith(_ARCHIVES)

    def identify(self) -> dict[str, Any]:
        """Return the settings that change what is read."""
        return self.options.model_dump(mode="json")

    def _read_file(self, file: InputFile, report_position: Callable[[int], None]) -> Item:
        try:
            data = _read_bounded(iter_blocks(file.path, report_position))
        except BrokenStreamError as error:
            return Dropped(error.reason, file.label, error.problem)
        name = parse_name(file.path.name)
        article = ArticleFile(data, name, find_metadata(file.path) if name else None)
        return build_document(article, file.label, self.options)

    def _iter_archive(self, file: InputFile, report_position: Callable[[int], None]) -> Iterator[Item]:
        blocks = iter_blocks(file.path, report_position)
        count = 0
        try:
            for member, metadata in iter_pairs(iter_members(blocks, (*_ARTICLES, _METADATA), MAX_BYTES)):
                count += 1
                where = f"{file.label}, {_show(member.name)}"
                if member.problem is not None:
                    yield Dropped(member.problem[0], where, member.problem[1])
                else:
                    article = ArticleFile(member.data, parse_name(member.name), metadata)
                    yield build_document(article, where, self.options)
        except BrokenStreamError as error:
            where = f"{file.label}, article {count + 1}"
            yield Dropped(error.reason, where, f"{error.problem}; the rest of the archive is lost")


def iter_pairs(members: Iterator[Member]) -> Iterator[tuple[Member, bytes | None]]:
    """Yield every article with the metadata of its name that comes next before or after it, and every problem.

    An article that may have metadata waits for the next article or metadata. Metadata that stand elsewhere are not
    used, which is told in the log.
    """
    waiting: Member | None = None
    held: tuple[str, bytes] | None = None  # name and content of metadata
    unused = 0
    try:
        for member in members:
            name = _stem(member.name)
            is_metadata = member.name.endswith(_METADATA) and not _is_unsafe(member)
            if is_metadata and parse_name(member.name) is None:
                continue
            if is_metadata and waiting is not None and _stem(waiting.name) == name:
                yield waiting, member.data
                waiting = None
            elif member.problem is not None and not is_metadata:
                yield member, None
            else:
                if waiting is not None:
                    yield waiting, None
                    waiting = None
                if is_metadata:
                    unused += held is not None
                    held = name, member.data
                elif held is not None and held[0] == name:
                    yield member, held[1]
                    held = None
                elif parse_name(member.name) is not None:
                    waiting = member
                else:
                    yield member, None
    except BrokenStreamError:
        if waiting is not None:
            yield waiting, None
        raise
    if waiting is not None:
        yield waiting, None
    if unused + (held is not None):
        logger.warning(
            "%d metadata JSON stand apart from their articles in an archive", unused + (held is not None)
        )


def _is_unsafe(member: Member) -> bool:
    """Tell a dangerous member from one that is too long: such metadata are nothing an article can rely on."""
    return member.problem is not None and member.problem[0] == UNSAFE


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _show(name: str) -> str:
    """Return a member's name fit for one line of a terminal."""
    return "".join(character if character.isprintable() else "?" for character in name[:200])


def _read_bounded(blocks: Iterator[bytes]) -> bytes:
    parts = []
    size = 0
    for block in blocks:
        size += len(block)
        if size > MAX_BYTES:
            raise BrokenStreamError("record_too_large", f"it is longer than {MAX_BYTES} bytes")
        parts.append(block)
    return b"".join(parts)
