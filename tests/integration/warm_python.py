# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python that has already imported what every module imports, as the interpreter of the plays that tests run.

Of a module's time on the lab, four fifths are Python's start and the imports of kubernetes and of Ansible's module_utils. A server imports them once and
forks for each run; Ansible starts the client (`CLIENT`), which hands over its arguments, folder, environment and open files, and ends as the run ended.
The module and all of its collection's code still come from the archive that Ansible sends, as on any other interpreter.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

# Those of these that an ansible-core does not have are left out.
IMPORTED = (
    "ansible.module_utils._internal._ansiballz._loader",
    "ansible.module_utils.basic",
    "ansible.module_utils.urls",
    "kubernetes.client",
    "kubernetes.config",
    "kubernetes.dynamic",
    "kubernetes.stream",
    "runpy",
    "tempfile",
    "yaml",
    "zipfile",
)

# The client, run by Python without site-packages, as it must start quickly.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
umask = os.umask(0)
os.umask(umask)
asked = json.dumps(dict(words=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ), umask=umask)).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    socket.send_fds(server, [len(asked).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(asked)
    status = server.recv(1)
os._exit(status[0] if status else 1)
"""


@contextlib.contextmanager
def warm_python(folder: str | Path, *words: str | Path, env: dict[str, str] | None = None) -> Iterator[str]:
    """Start the server, by this Python or by these words; yields the program to name as ansible_python_interpreter."""
    command = (*(words or (sys.executable,)), Path(__file__).resolve(), folder)
    # The server's standard input ends with this process, whatever becomes of it, and the server ends with that.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True, start_new_session=True) as server:
        assert server.stdin
        assert server.stdout
        program = server.stdout.readline().strip()
        assert program, "the warm Python did not start"
        try:
            yield program
        finally:
            server.stdin.close()


def _serve(folder: Path) -> None:
    for name in IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    gc.freeze()
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket"))
    (folder / "socket").chmod(0o666)
    server.listen(64)
    (folder / "python").write_text(CLIENT.format(python=sys.executable, socket=str(folder / "socket")))
    (folder / "python").chmod(0o755)
    print(folder / "python", flush=True)  # noqa: T201 - that is how whoever started it knows
    # Nobody waits for those that attend to a run.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while select.select([server.fileno(), sys.stdin.fileno()], [], [])[0] == [server.fileno()]:
        asked, _address = server.accept()
        if not os.fork():
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(asked)
            return
        asked.close()


def _attend(client: socket.socket) -> None:
    """Have a child do the run, tell the client how it ended, and kill it if the client is gone before."""
    head, files, _flags, _address = socket.recv_fds(client, 4, 3)
    text = b""
    while len(text) < int.from_bytes(head, "big"):
        text += client.recv(1 << 20)
    run = os.fork()
    if not run:
        client.close()
        _run(files, **json.loads(text))
        return
    for number in files:
        os.close(number)
    ended = os.pidfd_open(run)
    if ended not in select.select([ended, client.fileno()], [], [])[0]:
        os.kill(run, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(run, 0)[1])
    with contextlib.suppress(OSError):
        client.sendall(bytes([status if status >= 0 else 128 - status]))
    os._exit(0)


def _run(files: list[int], *, words: list[str], folder: str, environment: dict[str, str], umask: int) -> None:
    """Be what Python would be with these arguments: the script, or what is on standard input."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.umask(umask)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words or [""]
    sys.path[0] = str(Path(words[0]).parent) if words else ""
    main = types.ModuleType("__main__")
    if words:
        main.__file__ = words[0]
    sys.modules["__main__"] = main
    code = Path(words[0]).read_bytes() if words else sys.stdin.buffer.read()
    exec(compile(code, words[0] if words else "<stdin>", "exec"), main.__dict__)  # noqa: S102 - it is what an interpreter does


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
