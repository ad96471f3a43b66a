"""`chat` with models, transcripts, corpora and disks that mean harm or are broken: a sentence, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from retrieval_corpora import make_corpus
from tiny_llama import build_tiny_model

from biomedllama_cli.cli.app import run
from biomedllama_cli.corpus.manifest import RETRIEVAL_FOLDER

PAPER = """<PubmedArticle><MedlineCitation Status="MEDLINE"><PMID Version="1">{pmid}</PMID><Article>
<ArticleTitle>{title}</ArticleTitle><Abstract><AbstractText>Cress number {pmid} was hummed to and grew.</AbstractText>
</Abstract><Language>eng</Language></Article></MedlineCitation></PubmedArticle>"""
TITLE = "Cress&#x9b;2J &#x202e;gnp.exe&#x202c; [31m and [1] humming."
TEMPLATES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "include": "{% include '/etc/passwd' %}",
    "broken": "{% for %}",
    "raises": "{{ raise_exception('none of that \x1b[2J') }}",
    "unknown": "{{ nothing.of.that }}",
    "silent": "{# says nothing #}",
}
Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_model(folder, adds_bos=False)
    return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A corpus of two papers with a title that wants to drive a terminal; it has no index."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "papers").mkdir()
    papers = "".join(PAPER.format(pmid=pmid, title=TITLE) for pmid in (71, 72))
    (folder / "papers" / "one.xml").write_text(f"<PubmedArticleSet>{papers}</PubmedArticleSet>")
    return make_corpus(folder, model, source=("pubmed",), input=(str(folder / "papers"),))


@pytest.fixture
def corpus(shelf: Path, tmp_path: Path) -> Path:
    """A copy of it of the test's own."""
    return Path(shutil.copytree(shelf, tmp_path / "corpus"))


@pytest.fixture
def ask(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Ask:
    """A function that asks on the command line, and returns the exit code and the document."""
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str, model: Path = model) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = run([*build_line(model), *arguments, "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        told = json.loads(said.out)
        assert not told.get("error", {}).get("message", "").startswith("Unexpected"), told
        return code, told

    return start


def build_line(model: Path) -> list[str]:
    return ["chat", "--model", str(model), "--device", "cpu", "--max-new-tokens", "4"]


def run_with(repository: Path, before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, after some code."""
    last = f"from biomedllama_cli.cli.app import run\nraise SystemExit(run({list(arguments)!r}))"
    code = f"import os, signal\n{before}\n{last}"
    environment = {**os.environ, "PYTHONPATH": str(repository / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


@contextmanager
def room_for_files_of(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size (in bytes)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_tries_things_gets_nowhere(name: str, ask: Ask, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "hostile"))
    (folder / "chat_template.jinja").write_text(TEMPLATES[name])
    code, told = ask("--prompt", "hi", model=folder)
    assert code in (2, 3, 4), told
    assert str(folder) in told["error"]["message"] or "template" in told["error"]["message"]
    assert "\x1b" not in told["error"]["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile"]
    # It can be talked to all the same, without the template.
    assert ask("--prompt", "hi", "--template", "instructed", model=folder)[0] == 0


LINES: dict[str, bytes] = {
    "torn": b'{"messages": [{"role": "user", "con',
    "array": b"[1, 2]\n",
    "types": b'{"messages": "none"}\n',
    "roles": b'{"messages": [{"role": "root", "content": "a"}]}\n',
    "order": b'{"messages": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
    "numbers": b'{"messages": [{"role": "user", "content": 7}]}\n',
    "version": b'{"schema_version": 99, "messages": []}\n',
    "deep": b'{"messages": ' + b"[" * 100_000 + b"\n",
    "bytes": b"\xff\xfe\x00\x01\n",
    "nothing": b"\n\n",
    "surrogate": b'{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "b"}]}\n',
}


@pytest.mark.parametrize("name", LINES)
def test_a_broken_transcript_is_told_and_left_alone(name: str, ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_bytes(LINES[name])
    code, told = ask("--prompt", "hi", "--load", str(file))
    assert code == 3, told
    assert "talks.jsonl" in told["error"]["message"] or name == "surrogate"
    assert file.read_bytes() == LINES[name]


def test_a_line_of_megabytes_is_read_and_trimmed(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    turns = [{"role": role, "content": f"{role} \x1b[2J " + "word " * 200} for role in ("user", "assistant")]
    file.write_text(json.dumps({"messages": turns * 1500}) + "\n")
    assert file.stat().st_size > 3_000_000
    code, told = ask("--prompt", "hi", "--load", str(file), "--template", "instructed")
    assert code == 0, told
    assert told["replies"][0]["dropped_turns"] >= 2998


def test_what_is_no_ordinary_file_is_neither_read_nor_written(ask: Ask, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("kept\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "secret")
    for name in ("pipe", ".", "/dev/zero"):
        assert ask("--prompt", "hi", "--load", name)[0] == 3
    for name in ("pipe", "/dev/zero", "link.jsonl", "secret/talks.jsonl"):
        assert ask("--prompt", "hi", "--save", name)[0] == 6
    assert ask("--prompt", "hi", "--save", ".")[0] == 2  # no name of a file, whatever is there
    assert ask("--file", "pipe", "--output", "answers.jsonl")[0] == 3
    assert (tmp_path / "secret").read_text() == "kept\n"


def test_titles_cannot_drive_the_terminal(
    ask: Ask, model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--prompt", "Was cress hummed to?", "--corpus", str(corpus), "--passages", "1"]
    code, told = ask(*question)
    assert code == 0, told
    assert not any(character in told["prompt"] for character in "\x9b\u202e\u202c")
    assert run([*build_line(model), *question]) == 0
    printed = capsys.readouterr().out
    assert "humming" in printed
    assert not any(character in printed for character in "\x1b\x9b\u202e\u202c")


def test_answers_of_another_run_are_kept(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "Which organ?"}\n')
    asked = ["--file", "q.jsonl", "--output", "a.jsonl"]
    assert ask(*asked, "--seed", "1")[0] == 0
    first = (tmp_path / "a.jsonl").read_bytes()
    code, told = ask(*asked, "--seed", "2")
    assert code == 6
    assert "--overwrite" in told["error"]["hint"]
    assert (tmp_path / "a.jsonl").read_bytes() == first
    assert ask(*asked, "--seed", "1")[0] == 0
    assert (tmp_path / "a.jsonl").read_bytes() == first


def test_a_full_disk_keeps_the_transcript_that_was_there(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    turn = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 200_000}]}
    file.write_text(json.dumps(turn) + "\n")
    before = file.read_bytes()
    with room_for_files_of(150_000):
        code, told = ask("--prompt", "hi", "--save", str(file))
    assert (code, told["error"]["kind"]) == (6, "OutputError"), told
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["talks.jsonl"]
    assert ask("--prompt", "hi", "--save", str(file))[0] == 0
    assert file.read_bytes().startswith(before)


def test_a_corpus_that_cannot_be_written_is_told_and_one_with_an_index_is_used(
    ask: Ask, shelf: Path, small_disk: Path
) -> None:
    corpus = Path(shutil.copytree(shelf, small_disk / "corpus"))
    question = ["--prompt", "Was cress hummed to?", "--corpus", str(corpus), "--passages", "1"]
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, told = ask(*question)
    assert (code, str(corpus) in told["error"]["message"]) == (6, True), told
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    used = sum(path.stat().st_blocks for path in small_disk.rglob("*")) // 2
    subprocess.run(["mount", "-o", f"remount,size={used + 8}k", small_disk], check=True)
    code, told = ask(*question)
    assert (code, told["error"]["kind"]) == (6, "OutputError"), told
    assert not list((corpus / RETRIEVAL_FOLDER).glob("words-*"))
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    expected = ask(*question)
    assert expected[0] == 0, expected
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert ask(*question)[1]["sources"] == expected[1]["sources"]


def test_a_kill_while_the_index_is_built_leaves_nothing_in_the_way(
    ask: Ask, model: Path, corpus: Path, repository: Path
) -> None:
    question = ["--prompt", "Was cress hummed to?", "--corpus", str(corpus), "--passages", "1"]
    killing = (
        "import biomedllama_cli.chat.retrieval.library as library\n"
        "library.flush_folder = lambda folder: os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = run_with(repository, killing, *build_line(model), *question)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [path.name for path in (corpus / RETRIEVAL_FOLDER).glob(".*")] == [".words-300.partial"]
    code, told = ask(*question)
    assert (code, len(told["sources"])) == (0, 1)
    assert not list((corpus / RETRIEVAL_FOLDER).glob(".*"))


def test_a_kill_between_answers_loses_none(ask: Ask, model: Path, tmp_path: Path, repository: Path) -> None:
    questions = [{"id": str(number), "question": f"What is {number} times cress?"} for number in range(5)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    asked = ["--file", str(tmp_path / "q.jsonl"), "--batch-size", "1"]
    assert ask(*asked, "--output", "whole.jsonl")[0] == 0
    killing = (
        "import biomedllama_cli.recipes.chat_file_run as module\n"
        "describe, told = module.describe_reply, []\n"
        "def describe_and_die(reply):\n"
        "    told.append(reply)\n"
        "    if len(told) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return describe(reply)\n"
        "module.describe_reply = describe_and_die"
    )
    output = str(tmp_path / "killed.jsonl")
    ended = run_with(repository, killing, *build_line(model), *asked, "--output", output)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not Path(output).exists()
    code, told = ask(*asked, "--output", output)
    assert (code, told["found"]) == (0, 2), told
    assert Path(output).read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
