"""Read a mixture: one of the package's own by its name, or a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from biomedllama_cli.errors import SettingsError
from biomedllama_cli.instructions.locations import locate_sources
from biomedllama_cli.instructions.mixture import Mixture, MixturePlan, MixtureSource, Name
from biomedllama_cli.settings.explain import explain, show
from biomedllama_cli.settings.files import parse_settings
from biomedllama_cli.settings.suggest import suggest

BUILT_IN = ("paper", "permissive")
_KEYS = ("name", "base", "only", "sources")
_FIELDS = tuple(MixtureSource.model_fields)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def load_mixture(name_or_file: str, data: Mapping[str, Path], skip_missing: bool) -> Mixture:
    """Read a mixture and find the files of its sources.

    Args:
        name_or_file: `paper`, `permissive`, or a YAML file.
        data: files of sources by their names; they come before what the mixture says.
        skip_missing: leave out sources that cannot be had; their share goes to the others.

    Raises:
        SettingsError: the mixture is none, or `data` names a source that it does not have.
        UnavailableError: sources cannot be had (all are named), or none is left.
        DataError: a file that `data` names is not there.
    """
    plan = read_plan(name_or_file)
    return locate_sources(plan, data, skip_missing)


def read_plan(name_or_file: str) -> MixturePlan:
    """Read which sources a mixture has, without looking for their files.

    Raises:
        SettingsError: there is no such mixture, or its file breaks a rule: file, source and field are named.
    """
    if name_or_file in BUILT_IN:
        return _read_built_in(name_or_file)
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml") and not path.exists():
        raise SettingsError(
            f"mixture.mixture is {name_or_file!r}, but must be {' or '.join(BUILT_IN)}, or a YAML file.",
            suggest(name_or_file, BUILT_IN) or "`--mixture list` shows what each of them holds.",
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise SettingsError(
            f"mixture.mixture is {name_or_file}, but there is no such file.",
            f"Give --mixture {', '.join(BUILT_IN)}, or the path of an existing YAML file.",
        ) from error
    except OSError as error:
        raise SettingsError(f"mixture.mixture is {path}, but it cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    return _parse_plan(text, str(path), path.parent)


def _read_built_in(name: str) -> MixturePlan:
    folder = resources.files("biomedllama_cli.instructions").joinpath("mixtures")
    return _parse_plan(folder.joinpath(f"{name}.yaml").read_text("utf-8"), f"{name}.yaml", None)


def _parse_plan(text: str, file: str, folder: Path | None) -> MixturePlan:
    content = parse_settings(text, file)
    for key in content:
        if key not in _KEYS:
            raise SettingsError(
                f"{file} has the unknown key {show(key)}; a mixture has {', '.join(_KEYS)}.",
                suggest(str(key), _KEYS),
            )
    inherited = _read_base(content, file)
    entries = content.get("sources") or []
    if not isinstance(entries, list):
        raise SettingsError(f"{file}: `sources` is {show(entries)}, but must be a list of sources.")
    own = [_parse_source(entry, number, file, folder) for number, entry in enumerate(entries, 1)]
    sources = (*inherited, *own)
    if not sources:
        raise SettingsError(f"{file} has no source.", "List at least one under `sources`, or name a `base`.")
    _check_names(sources, file)
    name = content.get("name", Path(file).stem)
    return MixturePlan(_check_name(name, file), sources)


def _check_name(name: Any, file: str) -> str:
    """Return the name of a mixture, which run folders are called by."""
    try:
        return _NAME.validate_python(name)
    except ValidationError as error:
        raise SettingsError(
            f"{file}: `name` is {show(name)}, but must be text of 1 to 64 letters, digits, dots, underscores and "
            "hyphens, the first of them a letter or a digit.",
            "The run folder is called by it; without a `name`, the file's is taken.",
        ) from error


def _read_base(content: Mapping[str, Any], file: str) -> tuple[MixtureSource, ...]:
    """Return the sources a file takes over from one of the package's mixtures."""
    base, only = content.get("base"), content.get("only")
    if base is None:
        if only is not None:
            raise SettingsError(f"{file}: `only` chooses sources of `base`, which is not given.")
        return ()
    if base not in BUILT_IN:
        raise SettingsError(
            f"{file}: `base` is {show(base)}, but must be {' or '.join(BUILT_IN)}.",
            suggest(str(base), BUILT_IN),
        )
    sources = {source.source: source for source in _read_built_in(base).sources}
    if only is None:
        return tuple(sources.values())
    if not isinstance(only, list):
        raise SettingsError(f"{file}: `only` is {show(only)}, but must be a list of names.")
    for name in only:
        if not isinstance(name, str) or name not in sources:
            raise SettingsError(
                f"{file}: `only` names {show(name)}, which {base} does not have.", suggest(str(name), sources)
            )
    return tuple(source for name, source in sources.items() if name in only)


def _parse_source(entry: Any, number: int, file: str, folder: Path | None) -> MixtureSource:
    """Check one entry of `sources`; a relative path becomes one that is relative to the file."""
    if not isinstance(entry, dict):
        raise SettingsError(
            f"{file}: entry {number} of `sources` is {show(entry)}, but must be a mapping.",
            "A source looks like `{source: notes, format: messages, path: notes.jsonl}`.",
        )
    where = f"{file}: source {entry.get('source', f'number {number}')}"
    for key in entry:
        if key not in _FIELDS:
            raise SettingsError(f"{where} has the unknown field {show(key)}.", suggest(str(key), _FIELDS))
    try:
        source = MixtureSource.model_validate(entry)
    except ValidationError as error:
        raise _refuse(where, error) from error
    if source.path is not None and folder is not None:
        source = source.model_copy(update={"path": folder / os.path.expanduser(source.path)})
    return source


def _refuse(where: str, error: ValidationError) -> SettingsError:
    sentences, hint = [], ""
    for problem in error.errors(include_url=False):
        field = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            sentences.append(f"{where} lacks the field `{field}`.")
        elif not field:  # a rule over several fields; its message names them
            sentences.append(f"{where}: {explain(where, problem)}")
        else:
            sentences.append(explain(f"{where}: `{field}`", problem))
        if problem["type"] == "literal_error":
            formats = problem["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
            hint = hint or suggest(str(problem["input"]), formats)
    return SettingsError(" ".join(dict.fromkeys(sentences)), hint)


def _check_names(sources: Sequence[MixtureSource], file: str) -> None:
    seen: set[str] = set()
    for source in sources:
        if source.source in seen:
            raise SettingsError(
                f"{file}: the source {source.source} comes twice.", "Give each source a name of its own."
            )
        seen.add(source.source)
