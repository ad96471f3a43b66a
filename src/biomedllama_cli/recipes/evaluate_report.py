"""What `evaluate` hands back: the results of each model, and what was made of them."""

from __future__ import annotations

from pydantic import PrivateAttr

from biomedllama_cli.errors import ThresholdError, UserError
from biomedllama_cli.evaluation.cells import Frozen, Results
from biomedllama_cli.evaluation.comparison_cells import Comparison
from biomedllama_cli.evaluation.protocol_difference import ProtocolTable
from biomedllama_cli.evaluation.reproduction_report import Reproduction
from biomedllama_cli.report.evaluation_lines import evaluation_lines
from biomedllama_cli.report.table_forms import quote_lines
from biomedllama_cli.report.tables import TableForm


class Planned(Frozen):
    """One task that a dry run found: where its data is, how many records (None: not looked up), and the limit."""

    task: str
    profiles: tuple[str, ...]
    shots: int
    place: str
    records: int | None
    limit: int | None = None


class Evaluation(Frozen):
    """The results of one model and the folder they are in."""

    output_dir: str
    results: Results


class EvaluateReport(Frozen):
    """One or several evaluations, or with `dry_run` the plan of them.

    Attributes:
        models: what is evaluated, as given or found.
        output_dirs: where the results of each go.
        planned: what a dry run would score.
        evaluations: one per model.
        protocols: what of the differences is protocol, one per model that was scored under several.
        comparison: of the models, where there are several.
        reproductions: the verdicts on a published row, one per model.
        plot: file that was drawn.
        failed_thresholds: of `fail_under`, one sentence each.
    """

    schema_version: str = "biomedllama.evaluate/2"
    dry_run: bool = False
    models: tuple[str, ...] = ()
    output_dirs: tuple[str, ...] = ()
    planned: tuple[Planned, ...] | None = None
    evaluations: tuple[Evaluation, ...] = ()
    protocols: tuple[ProtocolTable, ...] = ()
    comparison: Comparison | None = None
    reproductions: tuple[Reproduction, ...] = ()
    plot: str | None = None
    failed_thresholds: tuple[str, ...] = ()
    _format: TableForm = PrivateAttr(default="terminal")

    def in_form(self, form: TableForm) -> EvaluateReport:
        """Return the same report, its tables printed as `terminal`, `markdown`, `latex` or `csv`."""
        copy = self.model_copy()
        copy._format = form
        return copy

    @property
    def problem(self) -> UserError | None:
        """What ends the command with another code than 0, once the report is printed."""
        if not self.failed_thresholds:
            return None
        return ThresholdError("; ".join(self.failed_thresholds))

    def lines(self) -> list[str]:
        """Return the summary as plain lines of text."""
        if self.planned is not None:
            return self._plan_lines()
        lines = evaluation_lines([each.results for each in self.evaluations], format=self._format)
        if self._format == "csv":  # nothing but the table, for programs
            return lines
        for part in (*self.protocols, *self.reproductions, self.comparison):
            if part is not None:
                lines += ["", *quote_lines(part.lines(), self._format)]
        lines += [
            "",
            *quote_lines([f"Results: {each.output_dir}" for each in self.evaluations], self._format),
        ]
        return [*lines, *quote_lines([f"Plot: {self.plot}"], self._format)] if self.plot else lines

    def _plan_lines(self) -> list[str]:
        lines = [f"Would score {', '.join(self.models)}; nothing is loaded or written."]
        for task in self.planned or ():
            count = "not looked up" if task.records is None else f"{task.records:,} records"
            if task.limit is not None:
                count += f", {min(task.limit, task.records or task.limit):,} of them scored"
            lines.append(
                f"  {task.task}: {task.place} ({count}); profiles {', '.join(task.profiles)}; shots {task.shots}"
            )
        return [*lines, *(f"Results would go to {folder}" for folder in self.output_dirs)]
