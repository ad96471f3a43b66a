"""What the stages of one evaluation share: the model, the journal, the processes, and the wish to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from biomedllama_cli.engine.job import Job
from biomedllama_cli.engine.signals import StopRequest
from biomedllama_cli.evaluation.cells import QuestionCell, TextCell
from biomedllama_cli.evaluation.jobs import Likelihood
from biomedllama_cli.evaluation.journal import Journal
from biomedllama_cli.evaluation.likelihoods import Ranks
from biomedllama_cli.evaluation.scorer import Group
from biomedllama_cli.recipes.evaluate_subject import Subject
from biomedllama_cli.settings.evaluate import EvaluateSettings

logger = logging.getLogger(__name__)

PRECISION_GROUPS = {"cpu": 2, "cuda": 16}
"""The shortest groups of a task that are kept to be scored again in fp16, in which CPUs are a hundred times slower."""


@dataclass
class Run:
    """One model's evaluation on its way.

    Attributes:
        settings: of the command.
        subject: the model.
        job: the processes.
        journal: what is finished.
        stop: whether somebody asked to stop.
        questions: finished cells.
        texts: likewise.
        samples: lines by name of their file.
        checked: largest difference (nats) of the questions scored again, by task.
        kept: some scored groups with their likelihoods, to be scored again in another precision.
    """

    settings: EvaluateSettings
    subject: Subject
    job: Job
    journal: Journal
    stop: StopRequest
    questions: list[QuestionCell] = field(default_factory=list)
    texts: list[TextCell] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    checked: dict[str, float] = field(default_factory=dict)
    kept: list[tuple[Group, Sequence[Likelihood]]] = field(default_factory=list)

    @property
    def ranks(self) -> Ranks:
        """The processes, as a pass sees them."""
        return Ranks(self.job.rank, self.job.ranks, self.job.gather)

    def stop_if_asked(self) -> None:
        """End the run where a signal asked for it.

        Raises:
            Resumable: what is finished is in the journal.
        """
        if self.stop.requested:
            self.job.stop(
                f"stopped by {self.stop.signal_name} with {self.journal.count()} finished pieces saved"
            )

    def check(self, task: str, groups: Sequence[Group], found: Mapping[int, Sequence[Likelihood]]) -> None:
        """Score some groups, spread evenly over a task, again one by one where that was asked for.

        The shortest are kept in any case, to be scored in another precision at the end.
        """
        count = self.settings.compute.self_check
        shortest = sorted(
            range(len(groups)), key=lambda number: sum(len(one.token_ids) for one in groups[number])
        )
        kept = PRECISION_GROUPS[self.job.device.type]
        self.kept += [(groups[number], found[number]) for number in shortest[:kept]]
        if not count or self.job.rank != 0:
            return
        chosen = list(range(0, len(groups), max(1, len(groups) // count)))[:count]
        largest = self.subject.scorer.check(groups, chosen)
        self.checked[task] = largest
        logger.info("%s: %d questions again one by one: largest difference %.1e", task, len(chosen), largest)

    def ticking(self, advance: Callable[[float], None]) -> Callable[[bool], None]:
        """Return what a pass calls after each piece: it counts, and answers a wish to stop."""

        def tick(known: bool) -> None:
            advance(1)
            if not known:
                self.stop_if_asked()

        return tick
