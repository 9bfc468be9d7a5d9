# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of its own, for what would leave its marks on this one: users, units, services that run."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import BIN, Ran, clean_environment, run

BOOT = Path(__file__).parent / "machine.sh"
GROUP = "istio-test-"
NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wd")


@dataclass(frozen=True)
class Machine:
    """Runs systemd. It has this machine's files and network; what is changed or started there goes with it."""

    pid: int

    def __call__(self, *words: str | Path, codes: tuple[int, ...] = (), env: dict[str, str] | None = None, stdin: str = "", timeout: float = 120) -> Ran:
        """Run a program there; fails the test if the exit code is not 0, or not among `codes` if given."""
        settings = clean_environment(**(env or {}))
        return run(*self.enter, *words, cwd=Path("/"), env=settings, stdin=stdin, timeout=timeout).expect(*codes)

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command for it to run there."""
        return ("nsenter", f"--target={self.pid}", *NAMESPACES)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        self("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1" && chmod "$2" "$1"', "sh", path, mode, stdin=text)

    def read(self, path: str) -> str:
        return self("cat", path).stdout

    def add(self, source: Path, target: str) -> None:
        """A copy of a folder of this machine's, which every user there may read."""
        self("sh", "-c", 'mkdir -p "$2" && cp -rL "$1/." "$2" && chmod -R a+rX "$2"', "sh", source, target)

    def has(self, path: str) -> bool:
        return self("test", "-e", path, codes=(0, 1)).rc == 0


def wait_for(what: str, seen: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)


@contextlib.contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Boot one, and leave no process, mount or cgroup of it."""
    group = f"{GROUP}{os.getpid()}"
    with _cgroup(group) as members:
        join = ("sh", "-c", 'echo $$ >"$0" && exec "$@"', members)
        # Should this process be killed, so is the machine.
        command = (
            *join,
            "setpriv",
            "--pdeathsig=KILL",
            "unshare",
            "--fork",
            "--pid",
            "--kill-child",
            "--mount",
            "--uts",
            "--ipc",
            "--cgroup",
            "--propagation=private",
            BOOT,
            folder,
        )
        outer = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield _booted(outer)
        finally:
            outer.send_signal(signal.SIGKILL)
            outer.wait()


def _booted(outer: subprocess.Popen[bytes]) -> Machine:
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")

    def up() -> bool:
        if outer.poll() is not None:
            pytest.fail("The machine did not boot.")
        inner = children.read_text().split()
        if not inner or "systemd" not in Path(f"/proc/{inner[0]}/comm").read_text():
            return False
        return "active" in run("nsenter", f"--target={inner[0]}", *NAMESPACES, "systemctl", "is-active", "machine.target", cwd=Path("/")).stdout.split()

    wait_for("systemd's first target", up)
    booted = Machine(int(children.read_text().split()[0]))
    # The user of the runs has to reach Python and Ansible, which may be in somebody's home folder.
    places = {parent for place in (BIN, Path(sys.base_prefix)) for parent in place.resolve().parents}
    booted("chmod", "a+x", *sorted(places))
    return booted


@contextlib.contextmanager
def _cgroup(name: str) -> Iterator[Path]:
    """A control group (version 2) for all that the machine starts; yields the file of its processes."""
    (hierarchy, *_others) = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    for left in Path(hierarchy).glob(f"{GROUP}*"):
        # Of a run that was killed.
        if "populated 0" in (left / "cgroup.events").read_text():
            _remove(left)
    group = Path(hierarchy) / name
    group.mkdir()
    try:
        yield group / "cgroup.procs"
    finally:
        wait_for("The machine's end", lambda: "populated 0" in (group / "cgroup.events").read_text())
        _remove(group)


def _remove(group: Path) -> None:
    for path in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    group.rmdir()


def changes(ran: Ran) -> int:
    """How many tasks of a play on one host changed something, by Ansible's own count."""
    (counted,) = re.findall(r"changed=(\d+)", ran.stdout)
    return int(counted)
