"""What a reproduction hands back: a verdict on every published value of a row, with what it rests on."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from biomedllama_cli.evaluation.cells import Frozen, ModelFacts, Number
from biomedllama_cli.evaluation.published import PublishedCell, PublishedRow, align_columns

Verdict = Literal[
    "identical", "numerical", "different protocol or weights", "not comparable", "incomplete", "not run"
]
RANKS: dict[Verdict, int] = {
    "identical": 0,
    "numerical": 1,
    "different protocol or weights": 2,
    "not comparable": 3,
    "incomplete": 4,
    "not run": 5,
}
"""From the best to the worst."""


class Candidate(Frozen):
    """A published value held against one of the scores it can be.

    Attributes:
        metric: key of the score: `acc`, `acc_norm`, `exact_match`, `word_perplexity`.
        verdict: on this score alone.
        reason: of the verdict, in words.
        correct: right answers obtained; None for perplexities.
        n: questions or documents it is over.
        value: obtained share of right answers (a fraction) or perplexity.
        interval: its 95 % interval, which never decides.
        difference: obtained minus published: in questions for counts, else in the value's own unit.
        near_ties: ids of questions whose two best options are closer than the precision error; None where that
            is not known.
        tolerance: largest difference of a perplexity that the precision error explains; None where not known.
    """

    metric: str
    verdict: Verdict
    reason: str
    correct: int | None = None
    n: int
    value: Number
    interval: tuple[Number, Number] | None = None
    difference: Number | None = None
    near_ties: tuple[str, ...] | None = None
    tolerance: Number | None = None


class CellReproduction(Frozen):
    """One published value and what became of it.

    Attributes:
        published: the printed value and its protocol.
        verdict: the best over the candidate scores.
        metric: the score that gave it.
        reason: of the verdict, in words.
        profile: that was run, with its version.
        bos: what stood first in every input; for running text what the first window was conditioned on.
        n_all: items of the whole task, before any limit.
        departures: known differences from the published protocol.
        beside: baselines and label counts to read the value by.
        candidates: one per score the value can be.
    """

    published: PublishedCell
    verdict: Verdict
    metric: str | None = None
    reason: str
    profile: str | None = None
    bos: str | None = None
    n_all: int | None = None
    departures: tuple[str, ...] = ()
    beside: str | None = None
    candidates: tuple[Candidate, ...] = ()


class Reproduction(Frozen):
    """A published row run again.

    Attributes:
        row: the published row.
        model: what was scored.
        precision_error: largest measured difference of a log-likelihood (in nats); None where not measured.
        cells: one per published value.
    """

    schema_version: str = "biomedllama.reproduction/1"
    row: PublishedRow
    model: ModelFacts
    precision_error: float | None
    cells: tuple[CellReproduction, ...]

    def lines(self) -> list[str]:
        """Return the verdicts as plain lines of text."""
        table = [list(_HEADING)]
        for cell in self.cells:
            table += _cell_rows(cell)
        return [
            f"Reproduction of the published row {self.row.name}",
            f"Model: {self.model.source} ({self.model.architecture}, {self.model.parameters:,} parameters, "
            f"{self.model.dtype} on {self.model.device}); published: {self.row.hub_id or 'weights not public'}, "
            f"{self.row.precision}",
            _describe_error(self.precision_error),
            *(f"Note: {note}" for note in self.row.notes),
            "",
            *align_columns(table),
            "",
            *_cell_notes(self.cells),
            "",
            *_summary(self.cells),
        ]


_HEADING = (
    "task",
    "shots",
    "profile",
    "BOS",
    "n",
    "score",
    "published",
    "obtained",
    "difference",
    "95 % interval",
    "verdict",
)


def _describe_error(error: float | None) -> str:
    if error is None:
        return "Precision error: not measured, so no difference can be called numerical"
    return f"Precision error: {error:.1e} nats, the largest difference of a log-likelihood scored again"


def _cell_rows(cell: CellReproduction) -> list[list[str]]:
    published = cell.published
    start = [published.task, str(published.shots), cell.profile or published.profile or "-", cell.bos or "-"]
    if not cell.candidates:
        return [[*start, "-", "-", _published(published), "-", "-", "-", cell.verdict]]
    rows = []
    for candidate in cell.candidates:
        n = f"{candidate.n}" if candidate.n == cell.n_all else f"{candidate.n} of {cell.n_all}"
        rows.append(
            [
                *start,
                n,
                candidate.metric,
                _published(published),
                f"{candidate.value:.4f}"
                if candidate.correct is None
                else f"{candidate.correct}/{candidate.n}",
                _signed(candidate),
                "-" if candidate.interval is None else "-".join(f"{end:.4f}" for end in candidate.interval),
                candidate.verdict,
            ]
        )
    return rows


def _published(cell: PublishedCell) -> str:
    counts = " or ".join(f"{count}/{cell.n}" for count in cell.counts)
    return counts or cell.printed


def _signed(candidate: Candidate) -> str:
    if candidate.difference is None:
        return "-"
    if candidate.correct is None or not float(candidate.difference).is_integer():
        return f"{candidate.difference:+.4f}"
    return f"{candidate.difference:+.0f}" if candidate.difference else "0"


def _cell_notes(cells: tuple[CellReproduction, ...]) -> list[str]:
    lines = []
    for cell in cells:
        score = f" ({cell.metric})" if cell.metric else ""
        lines.append(f"{cell.published.task}: {cell.verdict}{score}: {cell.reason}")
        lines += [f"  departs from the published protocol: {departure}" for departure in cell.departures]
        lines += [f"  note: {note}" for note in cell.published.notes]
        if cell.beside:
            lines.append(f"  beside it: {cell.beside}")
    return lines


def _summary(cells: tuple[CellReproduction, ...]) -> list[str]:
    """Count verdicts, and per score how many cells it repeats: a row was printed in one of them."""
    counts = Counter(cell.verdict for cell in cells)
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in RANKS if counts[verdict])
    candidates = [candidate for cell in cells for candidate in cell.candidates]
    scores = list(dict.fromkeys(candidate.metric for candidate in candidates))
    repeated = ", ".join(
        f"{score} {sum(c.verdict == 'identical' for c in candidates if c.metric == score)} of "
        f"{sum(c.metric == score for c in candidates)}"
        for score in scores
    )
    lines = [f"{len(cells)} cells: {verdicts}"]
    if repeated:
        lines.append(f"Identical by score: {repeated}")
    lines.append("The intervals decide nothing: both runs score the same items.")
    return lines
