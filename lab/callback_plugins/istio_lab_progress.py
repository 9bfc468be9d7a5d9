# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows the progress of a long step of the lab: the last line of its log, every ten seconds."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: istio_lab_progress
type: aggregate
short_description: Progress of the embedded lab
description:
  - Prints the last line of the running step's log every ten seconds, with the seconds since the task began.
"""

INTERVAL = 10


def last_line(log: Path, since: float) -> str | None:
    """The last line of a log, if it was written since the task began."""
    try:
        if log.stat().st_mtime < since:
            return None
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "istio_lab_progress"

    def __init__(self) -> None:
        super().__init__()
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        self.cache = os.environ.get("ISTIO_LAB_CACHE") or f"{home}/meshops-istio-lab"
        self.done = threading.Event()

    def watch(self, done: threading.Event) -> None:
        log, started = Path(self.cache, "logs/current"), time.time()
        while not done.wait(INTERVAL):
            line = last_line(log, started)
            if line:
                # Written directly to the descriptor: Ansible must not fork while a lock of Python's buffered output is held.
                os.write(1, f"  {time.time() - started:5.0f} s  {line[:140]}\n".encode())

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.cache = play.get_variable_manager().extra_vars.get("istio_lab_cache", self.cache)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible's signature
        self.done.set()
        self.done = threading.Event()
        threading.Thread(target=self.watch, args=(self.done,), daemon=True).start()

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002 - Ansible's signature
        self.done.set()
