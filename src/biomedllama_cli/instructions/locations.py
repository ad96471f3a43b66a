"""Find the files of a mixture's sources: given, beside the mixture file, or on the hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from biomedllama_cli.errors import DataError, SettingsError, UnavailableError
from biomedllama_cli.instructions.mixture import (
    LocatedSource,
    MissingSource,
    Mixture,
    MixturePlan,
    MixtureSource,
)
from biomedllama_cli.settings.suggest import suggest

logger = logging.getLogger(__name__)

_SNAPSHOT = re.compile(r"[/\\]snapshots[/\\](?P<commit>[0-9a-f]{40})[/\\]")


def locate_sources(plan: MixturePlan, data: Mapping[str, Path], skip_missing: bool) -> Mixture:
    """Find the files of all sources.

    Args:
        plan: the mixture.
        data: files given by the names of their sources; they come before what the mixture says.
        skip_missing: leave out what cannot be had, instead of raising.

    Raises:
        SettingsError: `data` names a source that the mixture does not have.
        DataError: a file that `data` names is not there.
        UnavailableError: sources cannot be had (all are named, with how to get each), or none is left.
    """
    names = [source.source for source in plan.sources]
    for name, path in data.items():
        if name not in names:
            raise SettingsError(
                f"mixture.source names {name!r}, which the mixture {plan.name} does not have: {', '.join(names)}.",
                suggest(name, names) or "Give --source NAME=FILE one of these names.",
            )
        if not path.is_file():
            raise DataError(
                f"mixture.source gives {path} for {name}, but there is no such file.",
                f"Give --source {name}=FILE the path of an existing file.",
            )
    places = [_locate(source, data.get(source.source)) for source in plan.sources]
    located = tuple(place for place in places if isinstance(place, LocatedSource))
    lost = tuple(place for place in places if isinstance(place, MissingSource))
    if lost and (not skip_missing or not located):
        raise _unavailable(plan, lost, skip_missing=skip_missing)
    for each in lost:
        logger.warning("left out of the mixture %s, its share goes to the others: %s", plan.name, each)
    return Mixture(plan.name, located, lost)


def _unavailable(
    plan: MixturePlan, lost: tuple[MissingSource, ...], *, skip_missing: bool
) -> UnavailableError:
    listed = "\n".join(f"  {each}" for each in lost)
    hint = "Give the files with --source NAME=FILE"
    if len(lost) < len(plan.sources):
        hint += ", or leave these sources out with --skip-missing: the others get their share"
    elif not skip_missing:
        hint += "; once one is there, --skip-missing leaves the others out"
    return UnavailableError(
        f"{len(lost)} of the {len(plan.sources)} sources of the mixture {plan.name} cannot be had here:\n{listed}",
        f"{hint}.",
    )


def _locate(source: MixtureSource, given: Path | None) -> LocatedSource | MissingSource:
    if given is not None:
        return LocatedSource(source, given, given=True)
    if source.path is not None:
        if source.path.is_file():
            return LocatedSource(source, source.path)
        return MissingSource(source, f"there is no file {source.path}")
    if source.hub is None:
        return MissingSource(source, "it is on no hub and no file was given")
    return _fetch(source, source.hub)


def _fetch(source: MixtureSource, hub: str) -> LocatedSource | MissingSource:
    """Take a file out of the hub's cache, or download it where the hub answers."""
    # The client takes a third of a second to import: only who needs the hub pays it.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from biomedllama_cli.models.hub import is_hub_reachable

    assert source.file is not None
    cached = try_to_load_from_cache(hub, source.file, repo_type="dataset", revision=source.revision)
    if isinstance(cached, str):
        return _describe(source, Path(cached))
    named = f"{hub} ({source.file})"
    if not is_hub_reachable():
        return MissingSource(source, f"{named} is not in the hub's cache, and the hub cannot be reached")
    try:
        path = hf_hub_download(hub, source.file, repo_type="dataset", revision=source.revision)
    except (
        Exception
    ) as error:  # the client raises a dozen unrelated kinds for what is not there or not allowed
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        return MissingSource(source, f"{named} cannot be fetched ({type(error).__name__}: {reason})")
    return _describe(source, Path(path))


def _describe(source: MixtureSource, path: Path) -> LocatedSource:
    found = _SNAPSHOT.search(str(path))
    return LocatedSource(source, path, commit=found["commit"] if found else None)
