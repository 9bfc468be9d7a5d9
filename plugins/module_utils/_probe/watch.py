# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends the module when the play that started it is gone.

Since ansible-core 2.19 a task's worker has a session of its own, so neither Ctrl-C nor a kill of ansible-playbook reaches
the module, which would keep sending requests to a live service. The watched processes are those ancestors that are
Ansible's own programs; a terminal or a job runner above them may end before the play.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

INTERVAL = 1.0
PROC = Path("/proc")


def end_with_the_play(proc: Path = PROC) -> None:
    """Start to watch in the background. Does nothing without /proc or without an ancestor that is Ansible's."""
    watched = {pid: started for pid in ancestors(os.getpid(), proc) if is_ansible(pid, proc) and (started := start_of(pid, proc)) is not None}
    if watched:
        threading.Thread(target=_watch, args=(watched, proc), daemon=True).start()


def _watch(watched: dict[int, str], proc: Path) -> None:
    while all(start_of(pid, proc) == started for pid, started in watched.items()):
        time.sleep(INTERVAL)
    # Nothing reads the module's output any more. Its connections end with it, and so do its commands in the pods.
    os._exit(1)


def ancestors(pid: int, proc: Path = PROC) -> Iterable[int]:
    """The parent of a process, its parent, and so on, up to the first process of the system."""
    while (fields := _stat(pid, proc)) and int(fields[1]) > 1:
        pid = int(fields[1])
        yield pid


def start_of(pid: int, proc: Path = PROC) -> str | None:
    """The start time of a process in clock ticks, which distinguishes it from a later one with the same ID; None once it has ended."""
    fields = _stat(pid, proc)
    return fields[19] if fields and fields[0] not in ("Z", "X") else None


def is_ansible(pid: int, proc: Path = PROC) -> bool:
    """Whether a process runs one of Ansible's programs, itself or by a Python interpreter."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return False
    names = [Path(word).name for word in words[:2]]
    return names[0].startswith("ansible") or (names[0].startswith("python") and len(names) > 1 and names[1].startswith("ansible"))


def _stat(pid: int, proc: Path) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may contain spaces and brackets: state, parent, …"""
    try:
        return (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
