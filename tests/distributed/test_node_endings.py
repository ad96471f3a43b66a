"""What the nodes make of each other's endings, without processes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from biomedllama_cli.engine import launch
from biomedllama_cli.engine.launch_job import CrashError
from biomedllama_cli.engine.node_line import Ending
from biomedllama_cli.engine.node_links import AloneLink
from biomedllama_cli.engine.node_wait import choose_cause
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


def test_what_a_launcher_was_asked_is_told_to_the_others() -> None:
    ending = Ending("killed", 1, "Rank 1 was killed.", asked=True)
    assert Ending.from_message(ending.to_message()) == ending
    assert not Ending.from_message({**ending.to_message(), "asked": "yes"}).asked
    assert choose_cause([replace(ending, asked=False), Ending("done", 0, asked=True)]) == ending
