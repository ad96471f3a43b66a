"""Where the file of a source is from, and whether it is the published one."""

from __future__ import annotations

from biomedllama_cli.instructions.mixture import LocatedSource


def is_from_hub(located: LocatedSource) -> bool:
    """Return whether a file is the one the mixture names on the hub."""
    return located.source.hub is not None and not located.given


def name_location(located: LocatedSource) -> str:
    """Return where a source is from; of a path only the name, which says nothing of the machine."""
    if is_from_hub(located):
        return f"{located.source.hub}/{located.source.file}"
    return located.path.name


def find_substitute(located: LocatedSource, in_file: int) -> str | None:
    """Return what a source stands in for: as the mixture says, or because its file is of another size.

    Args:
        located: the source.
        in_file: examples in its file.
    """
    source = located.source
    if source.substitute:
        return source.substitute
    if not _is_of_another_size(located, in_file):
        return None
    given = " (given by --source)" if located.given else ""
    return (
        f"{in_file:,} examples of {located.path.name} where the published mixture has {source.published_samples:,}"
        + given
    )


def note_licence(located: LocatedSource, in_file: int) -> str:
    """Return what the licence leaves open: whether it holds at all, where the file given is not the published one.

    Args:
        located: the source.
        in_file: examples in its file.
    """
    note = located.source.licence_note
    if not located.given or not _is_of_another_size(located, in_file):
        return note
    doubt = f"declared for the mixture's source; {located.path.name}, given by --source, may be under another"
    return f"{note}; {doubt}" if note else doubt


def _is_of_another_size(located: LocatedSource, in_file: int) -> bool:
    return located.source.published_samples not in (None, in_file)
