"""`biomedllama` in milliseconds for the examples of the documentation: a process that has imported everything forks.

    python command_forks.py serve SOCKET        # says so once it listens, and ends when its input does
    python command_forks.py run SOCKET ...      # is `biomedllama ...` there: arguments, folder, variables, streams

A command that is killed here is not killed there: such examples take the real one.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import threading

_LONGEST = 1 << 20


def ask(path: str, arguments: list[str]) -> int:
    """Have a command run and return its exit code, as the shell would see it."""
    order = json.dumps(
        {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    ).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
        server.connect(path)
        streams = array.array("i", [0, 1, 2])
        server.sendmsg([order], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        return int(server.recv(16) or b"70")


def serve(path: str) -> None:
    """Import what commands need, and fork for each that is asked for."""
    import importlib
    import pkgutil
    import select

    import biomedllama_cli.recipes

    for module in pkgutil.iter_modules(biomedllama_cli.recipes.__path__):
        importlib.import_module(f"biomedllama_cli.recipes.{module.name}")
    for name in ("transformers.models.llama.modeling_llama", "matplotlib.backends.backend_agg", "numba"):
        with contextlib.suppress(ImportError):  # numba is an extra
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else a collection in a fork copies all of the memory
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        listening.listen(16)
        print("listening", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while (
            0 not in select.select([listening, 0], [], [])[0]
        ):  # its input ends with the tests, killed or not
            client, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                wait_and_tell(client)
            client.close()


def wait_and_tell(client: socket.socket) -> None:
    """Fork once more, for the command itself, and tell its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order, streams, _, _ = socket.recv_fds(client, _LONGEST, 3)
    process_id = os.fork()
    if process_id == 0:
        client.close()
        obey(json.loads(order), streams)
    _, status = os.waitpid(process_id, 0)
    code = os.waitstatus_to_exitcode(status)
    client.send(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def obey(order: dict[str, object], streams: list[int]) -> None:
    """Be the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(order["folder"]))
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    sys.argv = ["biomedllama", *order["arguments"]]  # type: ignore[misc]
    from biomedllama_cli.__main__ import main

    try:
        main()
    except SystemExit as ended:
        code = ended.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        code if isinstance(code, int) else 0
    )  # without taking everything apart, which copies all of its memory


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
