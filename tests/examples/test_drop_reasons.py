"""docs/prepare.md names every reason for which a record can be left out, and no other."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomedllama_cli.corpus import reasons
from biomedllama_cli.corpus.card_text import REASONS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "biomedllama_cli"
PAGE = REPOSITORY / "docs" / "prepare.md"
STOPS, COUNTED = "### Records that stop the command", "### Records that are counted and left out"
SNAKE_CASE = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)+|retracted|contaminated")
FIRST_ARGUMENT = {"Dropped", "BrokenStreamError", "BrokenArticleError"}
RAISED = {"BrokenStreamError", "BrokenArticleError"}
JUDGES = (
    "corpus/selection.py",
    "corpus/licences.py",
    "corpus/bucket/metadata.py",
    "corpus/filters/language.py",
    "corpus/filters/quality.py",
    "corpus/filters/repetition.py",
)
"""Modules whose functions return a reason, or None."""


def iter_modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.glob("corpus/**/*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def resolve(node: ast.expr, module: str) -> str | None:
    """Return the text that an expression stands for: a literal, or a constant of the module."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        name = "biomedllama_cli." + module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        value = getattr(importlib.import_module(name), node.id, None)
        return value if isinstance(value, str) else None
    return None


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def is_problem(call: ast.Call) -> bool:
    """Tell whether a call of `Dropped` says what is wrong with the record: then it stops a strict run."""
    third = call.args[2] if len(call.args) > 2 else ast.Constant("")
    return not (isinstance(third, ast.Constant) and third.value == "")


def iter_calls(tree: ast.AST) -> Iterator[tuple[ast.Call, ast.expr]]:
    """Yield every call that names a reason, with the reason."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            if name_of(node) in FIRST_ARGUMENT:
                yield node, node.args[0]
            elif name_of(node) == "drop_record":
                yield node, node.args[1]
            elif name_of(node) in ("add", "add_xml_loss") and len(node.args) == 3:
                yield node, node.args[2]  # of the store of what was fetched
            for keyword in node.keywords:
                if keyword.arg == "problem" and isinstance(keyword.value, ast.Tuple):
                    yield node, keyword.value.elts[0]


def iter_returned(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what functions may return, the sides of conditional expressions and `or` one by one."""
    waiting = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.IfExp):
            waiting += [node.body, node.orelse]
        elif isinstance(node, ast.BoolOp):
            waiting += node.values
        else:
            yield node


def list_stopping() -> set[str]:
    """Return the reasons that come with a problem: a strict run ends with it."""
    found = set()
    for module, tree in iter_modules():
        for call, node in iter_calls(tree):
            unread = name_of(call) in RAISED or name_of(call) == "Member"
            if unread or (name_of(call) == "Dropped" and is_problem(call)):
                found.add(resolve(node, module))
    return {reason for reason in found if reason}


def list_all() -> set[str]:
    """Return all reasons that the source names."""
    found: set[str | None] = set(reasons.NAMES.values())
    for module, tree in iter_modules():
        found |= {resolve(node, module) for _, node in iter_calls(tree)}
        if module in JUDGES:
            found |= {resolve(node, module) for node in iter_returned(tree)}
        if module == "corpus/selection.py":  # flags that are reasons at once
            found |= set(importlib.import_module("biomedllama_cli.corpus.selection")._RETRACTED)
    return {reason for reason in found if reason and SNAKE_CASE.fullmatch(reason)}


def list_documented(heading: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2].partition("\n#")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE)
    return [reason for cell in cells for reason in re.findall(r"`([a-z0-9_]+)`", cell)]


def test_the_search_finds_reasons_of_every_kind() -> None:
    known = {
        "broken_json",  # an argument of Dropped
        "truncated_archive",  # raised while a file is read
        "unsafe_archive_member",  # a constant, in the problem of an archive's member
        "removed_from_bucket",  # a constant, noted while articles are fetched
        "no_derivatives_licence",  # returned by the licence gate
        "quality_placeholder",  # returned in a conditional expression
        "retraction_notice",  # a flag
        "contaminated",  # given to drop_record
        "replay_surplus",  # decided over the whole input
    }
    assert known <= list_all()
    assert {"broken_json", "truncated_archive", "unsafe_archive_member"} <= list_stopping()
    assert not {"no_abstract", "metadata_mismatch", "quality_placeholder"} & list_stopping()


def test_every_reason_is_documented_once_and_no_other() -> None:
    documented = list_documented(STOPS) + list_documented(COUNTED)
    assert sorted(documented) == sorted(list_all())


def test_the_data_card_explains_documented_reasons_only() -> None:
    assert set(REASONS) <= set(list_documented(STOPS) + list_documented(COUNTED))


@pytest.mark.parametrize("heading", [STOPS, COUNTED])
def test_reasons_that_stop_a_strict_run_are_told_from_those_that_are_counted(heading: str) -> None:
    documented = set(list_documented(heading))
    assert documented == (list_stopping() if heading == STOPS else list_all() - list_stopping())
