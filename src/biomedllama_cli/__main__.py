"""`python -m biomedllama_cli` and the `biomedllama` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C during the imports is an interruption, not a traceback."""
    try:
        from biomedllama_cli.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
