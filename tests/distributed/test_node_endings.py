"""What the nodes make of each other's endings, without processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from biomedllama_cli.engine import launch
from biomedllama_cli.engine.job_signals import JobSignals
from biomedllama_cli.engine.launch_job import CrashError, NodeJob, OthersFailedError
from biomedllama_cli.engine.node_endings import describe_ending, to_error
from biomedllama_cli.engine.node_line import TROUBLE, Ending
from biomedllama_cli.engine.node_links import AloneLink, choose_cause
from biomedllama_cli.engine.rank import OUTCOME, tell_launcher
from biomedllama_cli.engine.signals import StoppedAlone
from biomedllama_cli.errors import ExitCode, Resumable, SettingsError
from biomedllama_cli.settings.pretrain import ParallelSettings


class OtherWasAsked(AloneLink):
    """Another node, whose launcher was asked to stop."""

    def agree(self, ending: Ending) -> Ending:
        assert not ending.asked
        return choose_cause([ending, Ending("stopped", 1, asked=True)])


@pytest.mark.parametrize(("link", "starts"), [(AloneLink, 3), (OtherWasAsked, 1)])
def test_nodes_start_again_unless_one_of_them_was_asked_to_stop(
    link: type[AloneLink], starts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = []
    killed = CrashError("Rank 0 of 1 was killed.", killed=True)
    monkeypatch.setattr(launch, "_start", lambda *given: (began.append(given), (killed, None))[1])
    monkeypatch.setattr(launch, "open_link", lambda *given: link())
    with pytest.raises(CrashError):
        launch.launch_if_needed(ParallelSettings(device="cpu", num_processes=1, max_restarts=2), [])
    assert len(began) == starts


def test_an_error_that_a_user_can_mend_is_no_reason_to_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(SettingsError("The run needs more memory than the device has."), None)]
    monkeypatch.setattr(launch, "_start", lambda *given: answers.pop())
    with pytest.raises(SettingsError, match="more memory"):
        launch.launch_if_needed(ParallelSettings(device="cpu", num_processes=1, max_restarts=2), [])


def test_what_a_launcher_was_asked_is_told_to_the_others() -> None:
    ending = Ending("killed", 1, "Rank 1 was killed.", asked=True)
    assert Ending.from_message(ending.to_message()) == ending
    assert not Ending.from_message({**ending.to_message(), "asked": "yes"}).asked
    assert choose_cause([replace(ending, asked=False), Ending("done", 0, asked=True)]) == ending


def test_a_rank_that_was_stopped_alone_ends_the_other_nodes_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    tell_launcher(
        StoppedAlone("Stopped by SIGTERM; what is finished is kept.", "The same command continues.")
    )
    job = NodeJob(tmp_path, range(1, 2), 2, signals=JobSignals(), link=AloneLink())
    with pytest.raises(Resumable) as caught:
        job.run(["true"], dict(os.environ))
    told = describe_ending(caught.value, 1, None)
    assert told.kind in TROUBLE
    assert type(to_error(told, caught.value, 1, 2)) is Resumable
    lost = describe_ending(CrashError("Rank 0 of 2 failed: RuntimeError: Connection closed by peer"), 0, None)
    for own in (OthersFailedError(), CrashError("Connection closed by peer"), KeyboardInterrupt()):
        error = to_error(choose_cause([lost, told]), own, 0, 2)
        assert isinstance(error, Resumable)
        assert error.exit_code == ExitCode.RESUMABLE
        assert error.message == "Node 1 of 2: Stopped by SIGTERM; what is finished is kept."
