"""The leaves of a settings tree: one value each, with its flag and its environment name."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from biomedllama_cli.settings.base import Settings

ENVIRONMENT_PREFIX = "BIOMEDLLAMA_"

_EXPLAINED_DEFAULT = re.compile(r"\s*\[default: ([^\]]+)\]")

TREES = {
    "prepare": ("biomedllama_cli.settings.prepare", "PrepareSettings"),
    "pretrain": ("biomedllama_cli.settings.pretrain", "PretrainSettings"),
    "finetune": ("biomedllama_cli.settings.finetune", "FinetuneSettings"),
    "instruct": ("biomedllama_cli.settings.instruct", "InstructSettings"),
    "evaluate": ("biomedllama_cli.settings.evaluate", "EvaluateSettings"),
    "chat": ("biomedllama_cli.settings.chat", "ChatSettings"),
    "export": ("biomedllama_cli.settings.export", "ExportSettings"),
    "certify": ("biomedllama_cli.settings.certify", "CertifySettings"),
    "curves": ("biomedllama_cli.settings.curves", "CurvesSettings"),
}
"""Where each command's tree is; imported only when asked for, because building one takes time."""


@dataclass(frozen=True)
class Leaf:
    """One setting.

    Args:
        path: the sections it lies in and its own name.
        field: pydantic's description of it.
        default: the value it has when nothing sets it.
        section: what its section is for, or an empty string at the root of the tree.
    """

    path: tuple[str, ...]
    field: FieldInfo
    default: Any
    section: str

    @property
    def name(self) -> str:
        """Return its own name, unique in its tree."""
        return self.path[-1]

    @property
    def dotted(self) -> str:
        """Return its path as files and messages write it: `optimizer.weight_decay`."""
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        """Return its flag, `--weight-decay`; of what is given by its place alone, the word for it: `RUN`."""
        word = self.name.replace("_", "-")
        return word.upper() if self.positional else f"--{word}"

    @property
    def positional(self) -> bool:
        """Tell whether it is given by its place on the command line."""
        extra = self.field.json_schema_extra
        return isinstance(extra, dict) and bool(extra.get("positional"))

    @property
    def environment(self) -> str:
        """Return its environment variable: `BIOMEDLLAMA_OPTIMIZER__WEIGHT_DECAY`."""
        return ENVIRONMENT_PREFIX + "__".join(self.path).upper()

    @property
    def description(self) -> str:
        """Return its attribute docstring on one line, without a default it explains."""
        return _EXPLAINED_DEFAULT.sub("", self._docstring).rstrip(".") + "."

    @property
    def default_text(self) -> str:
        """Return its default as help shows it: the docstring's words where None stands for something."""
        explained = _EXPLAINED_DEFAULT.search(self._docstring)
        if explained:
            return explained[1]
        if self.default is None or self.default == ():
            return "none"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return ", ".join(self.default) if isinstance(self.default, tuple) else str(self.default)

    @property
    def optional(self) -> bool:
        """Tell whether None is one of its values."""
        return type(None) in self._alternatives

    @property
    def value_type(self) -> Any:
        """Return its type without None, and the element's type when it is repeatable."""
        (kind,) = [each for each in self._alternatives if each is not type(None)]
        return get_args(kind)[0] if get_origin(kind) is tuple else kind

    @property
    def repeatable(self) -> bool:
        """Tell whether it holds several values."""
        return any(get_origin(each) is tuple for each in self._alternatives)

    @property
    def choices(self) -> tuple[str, ...]:
        """Return the only values it may have, or none when any will do."""
        return get_args(self.value_type) if get_origin(self.value_type) is Literal else ()

    @property
    def completions(self) -> tuple[str, ...]:
        """Return what a shell may complete: its only values, else its examples."""
        return self.choices or tuple(self.field.examples or ())

    @property
    def type_name(self) -> str:
        """Return the word help shows for its type."""
        if self.choices:
            return "|".join(self.choices)
        kind = self.value_type
        while get_origin(kind) is not None:  # Annotated[int, ...] is an int with a rule
            kind = get_args(kind)[0]
        names = {str: "text", Path: "path", bool: "on|off"}
        return names.get(kind) or str(kind.__name__)

    @property
    def _docstring(self) -> str:
        return " ".join((self.field.description or "").split())

    @property
    def _alternatives(self) -> tuple[Any, ...]:
        kind = self.field.annotation
        return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def iter_leaves(
    tree: type[Settings], *, _path: tuple[str, ...] = (), _defaults: Any = None
) -> Iterator[Leaf]:
    """Yield every leaf of a tree, the root's own first and then section by section."""
    section = " ".join((tree.__doc__ or "").split()).rstrip(".") if _path else ""
    nested = []
    for name, field in tree.model_fields.items():
        default = field.default if _defaults is None else getattr(_defaults, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            nested.append((name, field.annotation, default))
        else:
            yield Leaf((*_path, name), field, default, section)
    for name, kind, default in nested:
        yield from iter_leaves(kind, _path=(*_path, name), _defaults=default)


def load_tree(command: str) -> type[Settings]:
    """Import the settings tree of a command."""
    module, name = TREES[command]
    tree: type[Settings] = getattr(import_module(module), name)
    return tree


def find_command(tree: type[Settings]) -> str:
    """Return the command a tree belongs to."""
    return next(command for command, (_, name) in TREES.items() if name == tree.__name__)
