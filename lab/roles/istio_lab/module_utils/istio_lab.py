# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the modules of the lab: its directories, its processes, and the log of the current step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
GROUP = "istio-lab"
NODES = ("node-1", "node-2")


class LabError(Exception):
    """An error with a message for the user."""


@dataclass(frozen=True)
class Layout:
    """The paths of the lab."""

    cache: Path

    @property
    def parts(self) -> Path:
        return self.cache / "parts"

    @property
    def logs(self) -> Path:
        return self.cache / "logs"

    @property
    def lab(self) -> Path:
        return self.cache / "lab"

    @property
    def kubeconfig(self) -> Path:
        return self.lab / "kubeconfig"

    def node(self, name: str) -> Path:
        return self.lab / "nodes" / name

    def root(self, name: str) -> Path:
        return self.node(name) / "root"

    def stamp(self, name: str) -> Path:
        """Written after a node has joined a cluster; a node without it is recreated."""
        return self.node(name) / "joined"


def start_time(pid: int) -> str | None:
    """The start time of a process in kernel ticks, which together with the PID identifies it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def boot() -> str:
    """The boot ID of the machine: PIDs and ticks restart with each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def remember_process(path: Path, pid: int) -> None:
    path.write_text(json.dumps({"pid": pid, "start": start_time(pid), "boot": boot(), "at": time.time()}))


def remembered_process(path: Path) -> dict[str, float] | None:
    """The PID in a file, if that process still runs."""
    try:
        known = json.loads(path.read_text())
        alive = known["boot"] == boot() and known["start"] is not None and start_time(known["pid"]) == known["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if alive else None


def node_process(layout: Layout, name: str) -> dict[str, float] | None:
    """The host's PID of a node's PID 1, and its start time."""
    return remembered_process(layout.node(name) / "pid")


def cgroup_folders() -> Iterator[Path]:
    """The lab's directory in each control group hierarchy, existing or not."""
    roots = [CGROUPS] if (CGROUPS / "cgroup.procs").exists() else sorted(CGROUPS.iterdir()) if CGROUPS.is_dir() else []
    for root in roots:
        if (root / "cgroup.procs").exists() and not root.is_symlink():
            yield root / GROUP


def end_build(layout: Layout) -> bool:
    """Ends a build that a killed play left running."""
    builder = layout.parts / ".builder"
    leftover = remembered_process(builder)
    if leftover:
        kill(int(leftover["pid"]))
        wait_until(lambda: remembered_process(builder) is None, 10)
    builder.unlink(missing_ok=True)
    return leftover is not None


def make_cgroups(name: str) -> list[Path]:
    """Creates a node's directory in each hierarchy, and returns the files to write its first PID to."""
    entries = []
    for folder in cgroup_folders():
        for made in (folder, folder / name, folder / name / "system"):
            made.mkdir(exist_ok=True)
            # Version 1: a cpuset must have processors before a process can join it.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                mine = made / setting
                if (made.parent / "cpuset.cpus").exists() and mine.exists() and not mine.read_text().strip():
                    mine.write_text((made.parent / setting).read_text())
        # Version 2: controllers must be enabled level by level.
        available = folder.parent / "cgroup.controllers"
        if available.exists():
            for controller in available.read_text().split():
                for parent in (folder.parent, folder, folder / name):
                    try:
                        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
                    except OSError:
                        break
        entries.append(folder / name / "system" / "cgroup.procs")
    return entries


def lab_processes(name: str | None = None) -> list[int]:
    """Every process of the lab, or of one node, identified by its control group."""
    found: set[int] = set()
    for folder in cgroup_folders():
        for member in (folder / name if name else folder).rglob("cgroup.procs"):
            try:
                found.update(int(pid) for pid in member.read_text().split() if pid != "0")
            except OSError:
                continue
    return sorted(pid for pid in found if start_time(pid) is not None)


def other_cache(layout: Layout) -> str | None:
    """The cache of a running lab, if it is not this one."""
    if any(node_process(layout, name) for name in NODES):
        return None
    for pid in lab_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for entry in environment:
            name, _sep, value = entry.partition(b"=")
            if name == b"ISTIO_LAB_CACHE" and os.path.realpath(value) != os.path.realpath(bytes(layout.cache)):
                return value.decode()
    return None


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.1) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stop_node(layout: Layout, name: str) -> bool:
    """Ends a node: its PID 1 takes all its processes, mounts and interfaces with it. Returns whether there was anything to end.

    The node of another cache's lab is not this one, although it has the same name.
    """
    if other_cache(layout):
        return False
    process = node_process(layout, name)
    changed = process is not None
    if process:
        kill(int(process["pid"]))

    def gone() -> bool:
        left = lab_processes(name)
        for pid in left:
            kill(pid)
        return not left

    changed = bool(lab_processes(name)) or changed
    if not wait_until(gone, 30):
        raise LabError(f"Processes of {name} do not end: {lab_processes(name)}")
    (layout.node(name) / "pid").unlink(missing_ok=True)
    for folder in cgroup_folders():
        changed = remove_cgroup(folder / name) or changed
        if folder.is_dir() and not any(child.is_dir() for child in folder.iterdir()):
            remove_cgroup(folder)
    return changed


def remove_cgroup(folder: Path) -> bool:
    """Removes a directory of the control group tree; the kernel releases the last member a moment after it ends."""

    def removed() -> bool:
        for path, _folders, _files in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(path).rmdir()
        return not folder.exists()

    if not folder.exists():
        return False
    if not wait_until(removed, 10):
        raise LabError(f"The control group {folder} cannot be removed")
    return True


def delete_tree(path: Path) -> None:
    """Deletes a directory, but never anything mounted below it."""
    if not path.exists():
        return
    for line in Path("/proc/self/mounts").read_text().splitlines():
        mounted = line.split()[1].encode().decode("unicode_escape")
        if mounted.startswith(f"{path.resolve()}/"):
            raise LabError(f"{path} cannot be deleted, because {mounted} is mounted below it. Next: unmount it.")
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(path)], check=True)


class Step:
    """The log of one step. logs/current points to the latest log, which lets the callback show its last line."""

    def __init__(self, layout: Layout, name: str) -> None:
        layout.logs.mkdir(parents=True, exist_ok=True)
        self.path = layout.logs / f"{name}.log"
        self.path.write_text("")
        self.started = time.monotonic()
        current = layout.logs / "current"
        current.unlink(missing_ok=True)
        current.symlink_to(self.path.name)

    def say(self, line: str) -> None:
        with self.path.open("a") as log:
            log.write(f"[{time.monotonic() - self.started:5.1f} s] {line}\n")

    def run(
        self,
        command: list[str],
        what: str,
        *,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        """Runs a command with its output in the log. On failure, the message contains the end of the log."""
        with self.path.open("ab") as log:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False, cwd=cwd, env=env, preexec_fn=preexec_fn)
        if done.returncode:
            raise self.failure(f"{what} failed (exit status {done.returncode})")

    def failure(self, what: str) -> LabError:
        tail = self.path.read_text(errors="replace").splitlines()[-15:]
        return LabError("\n".join([f"{what}. The whole log is {self.path}; it ends:", *tail]))


def digest(*pieces: bytes) -> str:
    """A short hash of contents."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(hashlib.sha256(piece).digest())
    return total.hexdigest()[:16]


def contents(path: Path) -> bytes:
    """The content of a file, or of all files of a directory with their names and executable bits."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise LabError(f"{path} does not exist")
    return b"".join(f"{file.relative_to(path.parent)} {os.access(file, os.X_OK)} ".encode() + digest(file.read_bytes()).encode() for file in files)
