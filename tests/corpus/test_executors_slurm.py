"""`prepare --executor slurm` on a cluster of one machine: from the command to a finished corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import biomedllama_cli
from biomedllama_cli.corpus.slurm import check_options, plan_array
from biomedllama_cli.errors import SettingsError

FILES = 5
Result = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpora: Any) -> Path:
    """Return a folder with five small input files and a tokenizer."""
    folder = tmp_path_factory.mktemp("a folder with spaces, 50%")
    corpora.write_tokenizer(folder / "tokenizer")
    corpora.write_input(folder / "input", FILES, documents=20, words=60)
    return folder


class Cluster:
    """The stub's commands on PATH, and prepare run beside them."""

    def __init__(self, root: Path, material: Path) -> None:
        self.root, self.material = root, material
        self.jobs = root / "jobs"
        self.jobs.mkdir()
        stub = (Path(__file__).with_name("slurm_stub.py")).read_text()
        (root / "bin").mkdir()
        for name in ("sbatch", "squeue"):
            command = root / "bin" / name
            command.write_text(f"#!{sys.executable}\n{stub}")
            command.chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_STUB": str(self.jobs),
            "PYTHONPATH": str(Path(biomedllama_cli.__file__).parents[1]),
        }

    def prepare(self, output: Path, *arguments: str, executor: str = "slurm") -> Result:
        command = [sys.executable, "-m", "biomedllama_cli", "prepare", "--json", "--executor", executor]
        # A relative input: tasks have to find it from wherever they start.
        command += ["--input", "input", "--tokenizer", "tokenizer", "--output-dir", str(output), *arguments]
        done = subprocess.run(
            command, cwd=self.material, env=self.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, json.loads(done.stdout)

    def wait(self, report: dict[str, Any]) -> list[list[int]]:
        """Wait until the jobs have ended and return the exit codes of each."""
        results = []
        for job in report["jobs"]:
            codes = self.jobs / job / "codes.json"
            until = time.monotonic() + 120
            while not codes.exists():
                assert time.monotonic() < until, f"job {job} does not end"
                time.sleep(0.05)
            results.append(json.loads(codes.read_text()))
        return results


@pytest.fixture
def cluster(tmp_path: Path, material: Path) -> Cluster:
    return Cluster(tmp_path, material)


@pytest.fixture(scope="module")
def expected(material: Path, tmp_path_factory: pytest.TempPathFactory, corpora: Any) -> dict[str, bytes]:
    """Return the files of the corpus as local tasks make it."""
    local = Cluster(tmp_path_factory.mktemp("local"), material)
    code, report = local.prepare(material / "expected", executor="local")
    assert code == 0, report
    files: dict[str, bytes] = corpora.read_corpus(material / "expected")
    return files


def test_array_and_finishing_job_make_the_same_corpus_as_local_tasks(
    cluster: Cluster, material: Path, expected: dict[str, bytes], corpora: Any
) -> None:
    output = material / "corpora" / "of slurm"
    code, report = cluster.prepare(output, "--slurm-option=--partition=cpu", "--slurm-option=--time=1:00:00")
    assert (code, report["state"], len(report["jobs"])) == (0, "submitted", 2), report
    assert cluster.wait(report) == [[0] * FILES, [0]]
    assert corpora.read_corpus(output) == expected
    assert not output.with_name(".of slurm.partial").exists()
    script = (cluster.jobs / report["jobs"][0] / "script").read_text()
    assert "#SBATCH --partition=cpu\n#SBATCH --time=1:00:00\n" in script
    options = json.loads((cluster.jobs / report["jobs"][1] / "job.json").read_text())["options"]
    assert options["dependency"] == f"afterany:{report['jobs'][0]}"
    assert cluster.prepare(output)[1]["state"] == "already_finished"
    command = json.loads((output / "manifest.json").read_text())["command"]
    assert "--executor slurm" in command


def test_same_command_while_jobs_wait_submits_nothing_and_others_are_refused(
    cluster: Cluster, expected: dict[str, bytes], corpora: Any
) -> None:
    output = cluster.root / "corpus"
    (cluster.jobs / "hold").touch()
    _, first = cluster.prepare(output, "--workers", "3")
    code, second = cluster.prepare(output)
    assert (code, second["state"], second["jobs"]) == (0, "submitted", first["jobs"])
    for arguments, executor in (((), "local"), (("--bos", "never", "--overwrite"), "slurm")):
        code, refused = cluster.prepare(output, *arguments, executor=executor)
        assert code == 6
        assert f"Slurm jobs {first['jobs'][0]} and {first['jobs'][1]}" in refused["error"]["message"]
    assert sorted(path.name for path in cluster.jobs.iterdir()) == [*first["jobs"], "hold"]
    (cluster.jobs / "hold").unlink()
    cluster.wait(first)
    assert corpora.read_corpus(output) == expected


def test_only_missing_tasks_are_submitted_again(
    cluster: Cluster, material: Path, expected: dict[str, bytes], corpora: Any
) -> None:
    output = cluster.root / "corpus"
    bad = material / "input" / "3.jsonl"
    good, stamp = bad.read_bytes(), bad.stat()
    bad.write_bytes(good[:-200] + b'{"text": broken}\n')
    try:
        _, first = cluster.prepare(output)
        assert cluster.wait(first) == [[0, 0, 0, 3, 0], [75]]
        assert not output.exists()
        logs = output.with_name(".corpus.partial") / "executor" / "slurm" / "logs"
        said = (logs / f"finish-{first['jobs'][1]}.log").read_text()
        assert "1 of 5 tasks are not finished (3)" in said
        assert "3.jsonl, line" in said
    finally:
        bad.write_bytes(good)
        os.utime(bad, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    _, second = cluster.prepare(output)
    assert second["tasks_resumed"] == FILES - 1
    assert cluster.wait(second) == [[0], [0]]
    assert "ranks=(3)" in (cluster.jobs / second["jobs"][0] / "script").read_text()
    assert corpora.read_corpus(output) == expected


def test_jobs_of_a_corpus_that_was_finished_meanwhile_write_nothing(
    cluster: Cluster, expected: dict[str, bytes]
) -> None:
    output = cluster.root / "corpus"
    (cluster.jobs / "hold").touch()
    _, submitted = cluster.prepare(output)
    (cluster.root / "bin" / "squeue").unlink()  # so that nothing is known of the jobs that wait
    code, report = cluster.prepare(output, executor="local")
    assert (code, report["state"]) == (0, "finished"), report
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    (cluster.jobs / "hold").unlink()
    assert cluster.wait(submitted)[0] == [7] * FILES
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    assert not output.with_name(".corpus.partial").exists()


def test_tasks_of_a_replaced_job_are_refused(cluster: Cluster) -> None:
    output = cluster.root / "corpus"
    (cluster.jobs / "hold").touch()
    _, old = cluster.prepare(output)
    (cluster.root / "bin" / "squeue").unlink()
    _, new = cluster.prepare(output, "--bos", "never")
    (cluster.jobs / "hold").unlink()
    assert cluster.wait(new)[1] == [0]
    assert cluster.wait(old) == [[7] * FILES, [7]]
    assert not json.loads((output / "manifest.json").read_text())["adds_bos"]


def test_refused_submission_and_missing_sbatch_are_one_sentence(cluster: Cluster) -> None:
    code, report = cluster.prepare(cluster.root / "corpus", "--slurm-option=--partition=reject-me")
    assert (code, report["error"]["kind"]) == (7, "WorkerError")
    assert "invalid partition specified" in report["error"]["message"]
    cluster.environment["PATH"] = "/nonexistent"
    code, report = cluster.prepare(cluster.root / "other")
    assert (code, report["error"]["kind"]) == (5, "UnavailableError")
    assert "sbatch" in report["error"]["message"]


def test_setup_runs_before_the_task(cluster: Cluster, expected: dict[str, bytes]) -> None:
    folder = Path(sys.executable).parent
    setup = f"export PATH='{folder}':$PATH; touch '{cluster.root}/was-here'"
    _, report = cluster.prepare(cluster.root / "corpus", "--slurm-setup", setup, "--tasks", "2")
    assert cluster.wait(report) == [[0, 0], [0]]
    assert (cluster.root / "was-here").exists()


@pytest.mark.parametrize(
    "option",
    ["--partition=cpu\n#SBATCH --uid=0", "--comment=a\rrm -rf /", "partition=cpu", "; rm -rf /", "--array=0-5",
     "--arr=0-5", "-a0-5", "--dependency=singleton", "--wrap=true", "", "--x=\x00", "--x=\u2028y"],
)  # fmt: skip
def test_option_that_is_none_is_refused(option: str) -> None:
    with pytest.raises(SettingsError, match="slurm_option"):
        check_options([option], None)


@pytest.mark.parametrize("option", ["--partition=cpu", "--exclusive", "-p cpu", "-t1:00", '--comment="a b"'])
def test_option_of_sbatch_is_accepted(option: str) -> None:
    check_options([option], None)


@pytest.mark.parametrize("tasks", [1, 999, 1000, 1001, 2000, 123_456])
def test_array_stays_below_slurms_limit_and_covers_every_task(tasks: int) -> None:
    portion, elements = plan_array(tasks, 1000)
    assert elements <= 1000
    assert (elements - 1) * portion < tasks <= elements * portion
