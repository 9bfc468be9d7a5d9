# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Ends the module when the play that started it is gone.

Since ansible-core 2.19 a task's worker has a session of its own, so neither Ctrl-C nor a kill of ansible-playbook reaches
the module: it would go on sending requests to somebody's service with nobody left to stop it. The processes that count
are the ancestors that are Ansible's own programs; a terminal or a job runner above them may well end before the play.

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
    """Watch from now on, in the background. Does nothing where the system has no /proc or no ancestor is Ansible's."""
    watched = {pid: started for pid in ancestors(os.getpid(), proc) if is_ansible(pid, proc) and (started := start_of(pid, proc)) is not None}
    if watched:
        threading.Thread(target=_watch, args=(watched, proc), daemon=True).start()


def _watch(watched: dict[int, str], proc: Path) -> None:
    while all(start_of(pid, proc) == started for pid, started in watched.items()):
        time.sleep(INTERVAL)
    # Nobody reads what a module says now. The connections end with the process, and with them what runs in the pods.
    os._exit(1)


def ancestors(pid: int, proc: Path = PROC) -> Iterable[int]:
    """The parent of a process, its parent, and so on, up to the first process of the system."""
    while (fields := _stat(pid, proc)) and int(fields[1]) > 1:
        pid = int(fields[1])
        yield pid


def start_of(pid: int, proc: Path = PROC) -> str | None:
    """When a process was started, in clock ticks, which tells it from a later one of the same number; None once it has ended."""
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
    """The fields of /proc/PID/stat behind the name, which may itself hold spaces and brackets: state, parent, …"""
    try:
        return (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
