"""Say in one sentence what is wrong with a value."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80
_brief.maxlevel = 2

_RULES = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text (in a YAML file: in quotes)",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "tuple_type": "must be a list",
    "broken_rule": "{rule}",  # of a validator that says its rule itself
}


def explain(subject: str, error: ErrorDetails) -> str:
    """Return one sentence naming the setting, its value and the rule it breaks.

    Args:
        subject: what set the value: a flag, an environment variable, a key of a file.
        error: one entry of pydantic's `ValidationError.errors()`.

    >>> explain("--seed", {"type": "int_parsing", "loc": ("seed",), "input": "x", "msg": ""})
    "--seed is 'x', but must be a whole number."
    """
    message = error["msg"].removeprefix("Value error, ").rstrip(".")
    if not error["loc"]:  # a rule over several settings; its message names them
        return f"{message}."
    rule = _RULES.get(error["type"], "is refused: " + message[:1].lower() + message[1:])
    bounds = {
        key: f"{bound:g}" if isinstance(bound, float) else bound
        for key, bound in error.get("ctx", {}).items()
    }
    return f"{subject} is {show(error['input'])}, but {rule.format(**bounds)}."


def show(value: Any) -> str:
    """Return a value as messages show it, shortened when it is long.

    >>> show("3e-5"), show(None)
    ("'3e-5'", 'none')
    """
    return "none" if value is None else _brief.repr(value)
