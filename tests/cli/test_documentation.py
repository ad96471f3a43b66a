"""docs/cli.md and docs/configuration.md say what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from biomedllama_cli.errors import ExitCode
from biomedllama_cli.settings.leaves import TREES
from biomedllama_cli.settings.preset import list_presets


def test_the_page_of_options_is_up_to_date(repository: Path) -> None:
    path = repository / "docs" / "generate_cli.py"
    specification = importlib.util.spec_from_file_location("generate_cli", path)
    assert specification is not None
    assert specification.loader is not None
    module: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    page = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == module.render(), "run `python docs/generate_cli.py`"


def test_every_exit_code_is_documented_and_none_besides(repository: Path) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", page, flags=re.MULTILINE)
    assert {(int(code), name) for code, name in rows} == {(int(code), code.name) for code in ExitCode}


def test_exit_codes_stay_what_they_are() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "SUCCESS": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "DATA": 3,
        "MODEL": 4,
        "UNAVAILABLE": 5,
        "OUTPUT": 6,
        "WORKER": 7,
        "BELOW_THRESHOLD": 8,
        "RESUMABLE": 75,
        "INTERRUPTED": 130,
    }


def test_every_preset_is_documented(repository: Path) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    for command in TREES:
        for name in list_presets(command):
            assert f"| `{command}` | `{name}` |" in page


def test_the_documented_configuration_is_what_the_program_prints(
    repository: Path, tmp_path: Path, process: Any
) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```\n\n```console\n\$ (.*?)\n(.*?)```", page, flags=re.DOTALL)
    assert found is not None
    content, command, shown = found.groups()
    (tmp_path / "my.yaml").write_text(content, encoding="utf-8")
    variable, _, rest = command.partition(" biomedllama ")
    name, _, value = variable.partition("=")
    arguments = rest.removesuffix(" | grep -v default").split()
    printed = process(*arguments, environment={name: value}).stdout.splitlines(keepends=True)
    assert "".join(line for line in printed if "default" not in line) == shown
