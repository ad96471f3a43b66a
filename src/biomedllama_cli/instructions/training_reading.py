"""Records of a training set on their way to questions, with what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from biomedllama_cli.tasks.audit import ItemDefect
from biomedllama_cli.tasks.catalogue import QuestionTask
from biomedllama_cli.tasks.hub import HubRecords
from biomedllama_cli.tasks.question import Question
from biomedllama_cli.tasks.records import Record
from biomedllama_cli.tasks.usable_records import iter_usable


@dataclass(frozen=True)
class UnusableRecord:
    """A record that is no question to learn from: where it stands, the kind of defect, and a sentence."""

    where: str
    kind: str
    detail: str


class TrainingReading:
    """Records on their way to questions: what is made of them, and what is wrong with them.

    Args:
        records: of a task, as `open_records` yields them.
    """

    def __init__(self, records: HubRecords | Iterator[Record]) -> None:
        self.records = records
        self.count = 0
        self.questions: list[Question] = []
        self.places: list[str] = []  # where each of them stands
        self._last = ""
        self.defects: list[ItemDefect] = []
        self.unusable: list[UnusableRecord] = []
        self._several = 0

    def read(self, task: QuestionTask) -> None:
        """Read all records as questions of a task.

        Raises:
            DataError: a record is broken, or of another task.
        """
        pending: list[tuple[str, str]] = []  # said of a record before its question comes
        usable = iter_usable(self._iter_counted(), task.name, self._leave_out)
        for question in task.parse(
            usable, lambda record, kind, detail: pending.append((kind, f"{record.where}: {detail}"))
        ):
            if question.answer.strip():
                place = len(self.questions)
                self.defects += [ItemDefect(place, question.id, kind, detail) for kind, detail in pending]
                self.questions.append(question)
                self.places.append(self._last)
            else:
                where = f"question {question.id}"
                self.unusable.append(UnusableRecord(where, "blank_answer", "the right option is blank"))
            pending.clear()

    def list_notes(self, task: str) -> tuple[str, ...]:
        """Return what else is to be known of the records, as sentences."""
        if task != "medmcqa" or not self._several:
            return ()
        return (
            f"{self._several:,} of {self.count:,} records have the `choice_type` multi; each of them has one right "
            "option all the same, and is trained on as such",
        )

    def _iter_counted(self) -> Iterator[Record]:
        for record in self.records:
            self.count += 1
            self._last = record.where
            self._several += record.fields.get("choice_type") == "multi"
            yield record

    def _leave_out(self, record: Record, kind: str, detail: str) -> None:
        self.unusable.append(UnusableRecord(record.where, kind, detail))
