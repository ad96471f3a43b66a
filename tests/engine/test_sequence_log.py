from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from biomedllama_cli.engine import sequence_frames
from biomedllama_cli.engine.onlookers import StepFacts
from biomedllama_cli.engine.sequence_frames import SEQUENCE_LOG, Damage, FedStep, Start, read_frames
from biomedllama_cli.engine.sequence_history import follow_history
from biomedllama_cli.engine.sequence_log import SequenceLog


def describe(step: int, ids: Sequence[int], *, accepted: bool = True) -> StepFacts:
    rows = len(ids)
    return StepFacts(
        step=step,
        grad_norm=1.0,
        row_losses=np.ones(rows),
        row_targets=np.full(rows, 3.0),
        rank_seconds=np.zeros((1, 2)),
        row_ids=np.array(ids, dtype=np.int64),
        row_checks=np.array(ids, dtype=np.int64) % 1000 + 2**31,
        was_accepted=accepted,
        seconds=1.0,
    )


def write_log(folder: Path) -> list[int]:
    """Log one start and four steps; return the sizes of the file after each."""
    log, sizes = SequenceLog(folder, {"world_size": 1}), []
    log.begin(0)
    for step in range(1, 5):
        sizes.append((folder / SEQUENCE_LOG).stat().st_size)
        log.note(describe(step, [step, 10 * step], accepted=step != 3))
    log.close()
    return [*sizes, (folder / SEQUENCE_LOG).stat().st_size]


def test_what_was_fed_is_read_back(tmp_path: Path) -> None:
    write_log(tmp_path)
    start, *steps = read_frames(tmp_path / SEQUENCE_LOG)
    assert isinstance(start, Start)
    assert (start.step, start.facts["world_size"]) == (0, 1)
    fed = [step for step in steps if isinstance(step, FedStep)]
    assert [step.ids.tolist() for step in fed] == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert [step.was_updated for step in fed] == [True, True, False, True]
    assert [(step.targets, step.checksum) for step in fed[:2]] == [(6, 2**32 + 11), (6, 2**32 + 22)]


@pytest.mark.parametrize("largest", [0, 254, 255, 65_534, 65_535, 30_000_000, 2**40])
def test_ids_of_any_size_take_the_bytes_they_need(largest: int) -> None:
    ids = np.array([-1, 0, largest])
    fed = FedStep.of(1, ids, np.zeros(3, np.int64), targets=0, was_updated=True)
    assert fed.ids.tolist() == ids.tolist()
    assert len(fed.packed) == 3 * max(1, -(-(largest + 1).bit_length() // 8))


def test_a_kill_at_any_byte_costs_no_more_than_the_frame_that_was_written(tmp_path: Path) -> None:
    """Cut the log everywhere, go on after what is left, and read everything that was whole."""
    sizes = write_log(tmp_path)
    whole = (tmp_path / SEQUENCE_LOG).read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / SEQUENCE_LOG).write_bytes(whole[:cut])
        kept = sum(size <= cut for size in sizes) - 1  # steps that are whole; -1 where not even the start is
        log = SequenceLog(tmp_path, {"world_size": 1})
        log.begin(max(kept, 0))
        log.note(describe(max(kept, 0) + 1, [7, 8]))
        log.close()
        history = follow_history(read_frames(tmp_path / SEQUENCE_LOG))
        assert sorted(history.steps) == list(range(1, max(kept, 0) + 2)), cut
        assert history.steps[max(kept, 0) + 1].ids.tolist() == [7, 8]
        assert sum(damage.size for damage in history.damages) == cut - max(
            (size for size in sizes if size <= cut), default=0
        )
        assert history.torn == len(history.damages)
        assert not history.disorder


@pytest.mark.parametrize(
    "junk", [b"\0" * 64, b"\xb1SEQ" * 40, b"\xb1SEQ\xff\xff\xff\xff" + b"x" * 9, b"\xb1"]
)
def test_junk_between_frames_is_passed_over(tmp_path: Path, junk: bytes) -> None:
    sizes = write_log(tmp_path)
    whole = (tmp_path / SEQUENCE_LOG).read_bytes()
    (tmp_path / SEQUENCE_LOG).write_bytes(whole[: sizes[2]] + junk + whole[sizes[2] :])
    entries = list(read_frames(tmp_path / SEQUENCE_LOG))
    assert [entry for entry in entries if isinstance(entry, Damage)] == [Damage(sizes[2], len(junk))]
    assert [entry.step for entry in entries if isinstance(entry, FedStep)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "content", ['{"step": Infinity, "facts": {}}', "[" * 100_000, "{}", '{"step": 1}', "\ud800"]
)
def test_a_start_that_says_nothing_is_damage(tmp_path: Path, content: str) -> None:
    payload = b"A" + content.encode(errors="surrogatepass")
    frame = struct.pack("<4sII", b"\xb1SEQ", len(payload), zlib.crc32(payload)) + payload
    (tmp_path / SEQUENCE_LOG).write_bytes(frame)
    assert list(read_frames(tmp_path / SEQUENCE_LOG)) == [Damage(0, len(frame))]


def test_headers_that_claim_much_and_hold_nothing_are_not_followed_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = []
    monkeypatch.setattr(sequence_frames, "_MOST_IN_VAIN", 2**18)
    monkeypatch.setattr(sequence_frames.zlib, "crc32", lambda payload: sums.append(len(payload)))
    claims = struct.pack("<4sII", b"\xb1SEQ", 2**12, 0) * 1000
    (tmp_path / SEQUENCE_LOG).write_bytes(claims)
    assert list(read_frames(tmp_path / SEQUENCE_LOG)) == [Damage(0, len(claims))]
    assert sum(sums) <= 2**18 + 2**12


def test_a_flipped_bit_takes_its_step_away_and_no_other(tmp_path: Path) -> None:
    sizes = write_log(tmp_path)
    whole = bytearray((tmp_path / SEQUENCE_LOG).read_bytes())
    for place in range(sizes[1], sizes[2]):  # the frame of step 2
        broken = bytearray(whole)
        broken[place] ^= 1
        (tmp_path / SEQUENCE_LOG).write_bytes(broken)
        history = follow_history(read_frames(tmp_path / SEQUENCE_LOG))
        assert sorted(history.steps) == [1, 3, 4]
        assert history.disorder == ["The log has step 3 where step 2 should follow."]


def test_a_later_start_undoes_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    write_log(tmp_path)
    log = SequenceLog(tmp_path, {})
    log.begin(2)
    log.note(describe(3, [5, 50]))
    log.close()
    history = follow_history(read_frames(tmp_path / SEQUENCE_LOG))
    assert {number: fed.ids.tolist() for number, fed in history.steps.items()} == {
        1: [1, 10],
        2: [2, 20],
        3: [5, 50],
    }
    assert (history.undone, len(history.starts)) == (2, 2)


def test_a_run_from_another_runs_checkpoint_begins_with_that_runs_log(tmp_path: Path) -> None:
    first, second, third = tmp_path / "first", tmp_path / "second", tmp_path / "third"
    for folder in (first, second, third):
        folder.mkdir()
    write_log(first)
    log = SequenceLog(second, {}, first / "checkpoints" / "step-00000003")
    log.begin(3)
    log.note(describe(4, [6, 60]))
    log.close()
    history = follow_history(read_frames(second / SEQUENCE_LOG))
    assert [history.steps[step].ids[0] for step in (1, 2, 3, 4)] == [1, 2, 3, 6]
    again = SequenceLog(third, {}, tmp_path / "elsewhere" / "checkpoints" / "step-00000003")  # without a log
    again.begin(3)
    again.close()
    assert not follow_history(read_frames(third / SEQUENCE_LOG)).steps


def test_frames_of_ours_reach_the_file_without_a_flush(tmp_path: Path) -> None:
    """What a process has noted must survive its SIGKILL: no buffer of its own may hold it."""
    child = os.fork()
    if not child:  # dies as by SIGKILL: nothing is flushed or closed
        log = SequenceLog(tmp_path, {})
        log.begin(0)
        log.note(describe(1, [1, 2]))
        os._exit(9)
    os.waitpid(child, 0)
    assert sorted(follow_history(read_frames(tmp_path / SEQUENCE_LOG)).steps) == [1]
