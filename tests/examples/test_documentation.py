"""The documentation holds what it promises: marked examples run, links lead somewhere, translations keep up."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from biomedllama_cli import __version__

REPOSITORY = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh-CN.md", "README.ja.md")
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")],
    key=lambda path: path.relative_to(REPOSITORY),
)
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FORKS = Path(__file__).with_name("command_forks.py")
REAL_PROCESSES = ("README.md", "getting-started.md")
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")


def find_blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def find_executed_blocks(page: Path) -> list[str]:
    return [block for block in find_blocks(page) if block.splitlines()[0] == "# executed"]


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Return an environment in which Python finds this checkout, and which holds no setting of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BIOMEDLLAMA_")}
    paths = [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def command_server(environment: dict[str, str]) -> Iterator[str]:
    """Return the socket of a process that has imported everything and forks for each command."""
    with tempfile.TemporaryDirectory(
        prefix="commands-"
    ) as folder:  # pytest's is too long for a socket's name
        command = [sys.executable, str(FORKS), "serve", f"{folder}/socket"]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
            yield f"{folder}/socket"
            process.stdin.close()


def build_shell(environment: dict[str, str], folder: Path, biomedllama: str) -> dict[str, str]:
    """Return the environment of a shell with `biomedllama` and `python`, as in an activated virtual environment.

    Args:
        environment: what else it holds.
        folder: gets both programs.
        biomedllama: options of Python that make it the command.
    """
    folder.mkdir()
    for name, options in (("biomedllama", biomedllama), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {options} "$@"\n')
        (folder / name).chmod(0o755)
    return environment | {"PATH": f"{folder}{os.pathsep}{environment['PATH']}"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if find_executed_blocks(page)], ids=name_of)
def test_executed_examples_run_in_order(
    page: Path, tmp_path: Path, environment: dict[str, str], command_server: str
) -> None:
    blocks = find_executed_blocks(page)
    folder = tmp_path / "work"
    folder.mkdir()
    # Most commands are forks, which have all imports done; the first pages that people try are not, nor what is killed.
    is_real = page.name in REAL_PROCESSES or any(re.search(r"\bkill\b", block) for block in blocks)
    forked = f"-SE {shlex.quote(str(FORKS))} run {shlex.quote(command_server)}"
    shell = build_shell(environment, tmp_path / "bin", "-m biomedllama_cli" if is_real else forked)
    for block in blocks:
        command = ["bash", "-euo", "pipefail", "-c", block]
        done = subprocess.run(command, cwd=folder, env=shell, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_getting_started_runs_every_command_of_the_main_job() -> None:
    executed = "".join(find_executed_blocks(REPOSITORY / "docs/getting-started.md"))
    assert re.findall(r"^biomedllama (\w+)", executed, re.MULTILINE) == ["prepare", "pretrain", "evaluate"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    missing = [
        target for target in targets if target and "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing


def test_readmes_have_the_same_commands_and_structure() -> None:
    english, *translations = [(REPOSITORY / name).read_text(encoding="utf-8") for name in READMES]
    for text in translations:
        assert BLOCK.findall(text) == BLOCK.findall(english)
        for mark in (r"^#+ ", r"^- ", r"^\|"):
            assert len(re.findall(mark, text, re.MULTILINE)) == len(
                re.findall(mark, english, re.MULTILINE)
            ), mark
        assert set(LINK.findall(text)) ^ set(LINK.findall(english)) <= set(READMES)


def test_readmes_link_to_each_other() -> None:
    for name in READMES:
        head = (REPOSITORY / name).read_text(encoding="utf-8").partition("\n## ")[0]
        assert set(LINK.findall(head)) >= set(READMES) - {name}


def test_readme_leads_with_the_two_commands_then_install_then_the_main_job() -> None:
    blocks = [block.strip() for block in find_blocks(REPOSITORY / "README.md")]
    assert blocks[:3] == ["make demo", "make test", "pip install biomedllama-cli"]
    assert blocks[3].splitlines() == [
        "biomedllama prepare --subset pubmed-central",
        "biomedllama pretrain",
        "biomedllama evaluate --task medqa --shots 3",
    ]


def test_citation_names_this_version_and_licence() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()


def test_changelog_has_an_unreleased_section_first() -> None:
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_site_navigation_holds_every_page() -> None:
    def pages(entries: object) -> set[str]:
        if isinstance(entries, str):
            return {entries}
        children = entries.values() if isinstance(entries, dict) else entries
        return set().union(*(pages(child) for child in children))  # type: ignore[attr-defined]

    docs = REPOSITORY / "docs"
    listed = pages(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    assert listed == {str(page.relative_to(docs)) for page in docs.glob("**/*.md")}
