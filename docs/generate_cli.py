"""Write docs/cli.md from the options that `--help` shows: `python docs/generate_cli.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.text import Text
from typer.main import get_command

from biomedllama_cli.cli.app import app
from biomedllama_cli.cli.help import group_options

PAGE = Path(__file__).parent / "cli.md"
HEADER = """\
<!-- Made by docs/generate_cli.py from the options of the commands; do not edit. -->

# Command line

`biomedllama COMMAND [OPTIONS]`, also `python -m biomedllama_cli`. Where values come from besides flags, and what the
exit codes mean, is in [configuration.md](configuration.md).
"""


def render() -> str:
    """Return the page."""
    root = get_command(app)
    context = root.make_context("biomedllama", [], resilient_parsing=True)
    parts = [HEADER, _render_options(root, context)]
    for name, command in root.commands.items():
        inner = command.context_class(command, info_name=name, parent=context)
        parts += [f"## biomedllama {name}\n", f"{command.help}\n", _render_options(command, inner)]
    return "\n".join(parts)


def _render_options(command: Any, context: Any) -> str:
    lines = []
    for title, options in group_options(command, context).items():
        lines += [
            f"**{title}**",
            "",
            "| option | what it does | default | environment |",
            "|---|---|---|---|",
        ]
        lines += [_render_row(option) for option in options]
        lines.append("")
    return "\n".join(lines)


def _render_row(option: Any) -> str:
    flags = ", ".join(sorted(option.opts, reverse=True)) + "".join(
        f" / {each}" for each in option.secondary_opts
    )
    value = f" {option.metavar}" if option.metavar else ""
    if option.param_type_name == "argument":
        flags, value = option.metavar, ""
    text, _, facts = Text.from_markup(option.help or "").plain.partition("\n[default: ")
    default, _, variable = facts.removesuffix("]").partition("] [env: ")
    cells = [
        f"`{flags}{value}`",
        text,
        f"`{default}`" if default else "",
        f"`{variable}`" if variable else "",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
