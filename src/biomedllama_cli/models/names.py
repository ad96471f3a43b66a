"""What the name of a model means, told before any library is loaded."""

from __future__ import annotations


def is_path(source: str) -> bool:
    """Tell whether the name of a model can only be a path: hub ids are `name` or `owner/name`.

    >>> [is_path(name) for name in ("folder/", "./folder", "~/folder", "a/b/c", "owner/name", "gpt2")]
    [True, True, True, True, False, False]
    """
    return source.startswith((".", "/", "~")) or source.endswith("/") or source.count("/") > 1
