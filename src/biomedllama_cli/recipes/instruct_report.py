"""What `biomedllama instruct` hands back."""

from __future__ import annotations

import shlex

from pydantic import Field

from biomedllama_cli.instructions.counts import list_counts
from biomedllama_cli.instructions.manifest import MixtureManifest
from biomedllama_cli.recipes.tuning_report import TuningFacts, TuningReport
from biomedllama_cli.wording import name_count


class DrawnFacts(TuningFacts):
    """What is trained on where rows are drawn: `examples` and their tokens are those that can be drawn, after caps."""

    rows: int
    """Rows drawn over all epochs, an example once for each draw."""
    row_tokens: int
    """Tokens of all rows drawn, repeated examples counted again."""
    row_target_tokens: int
    """Those of them that carry loss."""


class InstructReport(TuningReport):
    """The run, and the mixture it was trained on."""

    schema_version: str = "biomedllama.instruct/1"
    """Changes when a reader of this report would have to."""
    data: DrawnFacts
    """What was trained on."""
    mixture: MixtureManifest
    """What was drawn from where, under which licences."""
    without_example: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Records that gave no example, by source and reason."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        first = "Would tune" if self.dry_run else "Tuned"
        lines = [f"{first} {self.model} on the mixture {self.mixture.mixture}, {self.describe_method()}."]
        lines += [*self.mixture.lines(), *self.data_lines()]
        for source, reasons in self.without_example.items():
            lines.append(f"{source}: records without an example: {list_counts(reasons)}.")
        lines += [run.line() for run in self.runs]
        if self.dry_run:
            return [*lines, "Nothing was written."]
        return [*lines, f"Next: {shlex.join([*self.scoring_command('instructed'), '--task', 'medqa'])}"]

    def _name_data(self) -> str:
        """Return how much is learnt."""
        data = self.data
        share = data.row_target_tokens / data.row_tokens if data.row_tokens else 0.0
        return (
            f"{name_count(data.rows, 'row')} drawn of {name_count(data.examples, 'example')} "
            f"({data.row_tokens:,} tokens in all rows, {share:.1%} of them targets)"
        )
