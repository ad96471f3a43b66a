"""Documents of running text: records of The Pile, kept by subset, or plain ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from biomedllama_cli.errors import DataError
from biomedllama_cli.tasks.question import Document
from biomedllama_cli.tasks.records import Record


def iter_documents(records: Iterable[Record], pile_set_name: str | None) -> Iterator[Document]:
    """Yield the documents of one Pile subset; a record that names no subset is a plain document and is kept.

    Args:
        records: raw records with `text` and, in The Pile, `meta.pile_set_name`.
        pile_set_name: the subset to keep, such as `PubMed Abstracts`; None keeps every record, whatever its `meta`.

    Raises:
        DataError: `text` or `meta` is missing or not of its kind.
    """
    for record in records:
        if pile_set_name is None:
            yield Document(record.key, record.text("text"))
            continue
        meta: Any = record.fields.get("meta") or {}
        if not isinstance(meta, Mapping):
            raise DataError(f"{record.where}: field `meta` is {type(meta).__name__}; it must be an object")
        if meta.get("pile_set_name", pile_set_name) == pile_set_name:
            yield Document(record.key, record.text("text"))
