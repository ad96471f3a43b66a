"""What every settings section shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

POSITIONAL = Field(json_schema_extra={"positional": True})
"""Marks, inside `Annotated`, a setting that the command line takes by its place; it still has a default."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are refused; attribute docstrings are the help text."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,  # "inf" is greater than 0 and would pass for a learning rate
    )
