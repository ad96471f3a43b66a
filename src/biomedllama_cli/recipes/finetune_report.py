"""What `biomedllama finetune` hands back."""

from __future__ import annotations

import shlex

from biomedllama_cli.evaluation.seed_results import SeedGains
from biomedllama_cli.recipes.finetune_tests import OWN_TASK
from biomedllama_cli.recipes.tuning_report import TuningReport
from biomedllama_cli.report.seed_tables import gain_lines
from biomedllama_cli.settings.finetune import QuestionSettings
from biomedllama_cli.tasks.catalogue import TASKS, QuestionTask


class FinetuneReport(TuningReport):
    """The runs of all seeds, and the scores before and after."""

    schema_version: str = "biomedllama.finetune/1"
    """Changes when a reader of this report would have to."""
    task: str
    """Task, or name of the file of one's own questions."""
    gains: SeedGains | None = None
    """Generated answers before and after, scored as published; None where nothing was scored."""
    likelihood_gains: SeedGains | None = None
    """Likelihood of the options before and after: what the model knows, whether or not it has learnt the form."""

    def lines(self) -> list[str]:
        """Return the summary for people."""
        first = "Would fine-tune" if self.dry_run else "Fine-tuned"
        lines = [f"{first} {self.model} on {self.task}, {self.describe_method()}.", *self.data_lines()]
        lines += [run.line() for run in self.runs]
        if self.dry_run:
            return [*lines, "Nothing was written."]
        for gains, what in (
            (self.gains, "Generated answers"),
            (self.likelihood_gains, "Likelihood of the options"),
        ):
            if gains is not None:
                lines += ["", f"{what}:", *gain_lines(gains)]
        return [*lines, f"Next: {shlex.join(self._next_command())}"]

    def _next_command(self) -> list[str]:
        """Return a command that scores the tuned model on the test questions, which of one's own need their file."""
        command = self.scoring_command("finetuned")
        questions = QuestionSettings.model_validate(self.settings["questions"])
        if questions.test_limit is not None:
            command += ["--limit", str(questions.test_limit)]
        if isinstance(TASKS.get(questions.task), QuestionTask):
            file = questions.test_file
            return [*command, "--task", self.task, *(["--data", f"{self.task}={file}"] if file else [])]
        return [*command, "--task", OWN_TASK, "--data", f"{OWN_TASK}={questions.test or 'FILE'}"]
