# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callback that appends every task result as one JSON line to the file ISTIO_RECORD, beside whatever is printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorder
type: aggregate
short_description: Records task results for the integration tests
description: See the file.
"""


class CallbackModule(CallbackBase):
    """One line for each result and each loop's whole, one for the final counts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self._record = Path(os.environ["ISTIO_RECORD"])

    def _write(self, line: dict[str, Any]) -> None:
        with self._record.open("a", encoding="utf-8") as record:
            record.write(json.dumps(line) + "\n")

    def _task(self, result: Any, status: str) -> None:
        # Ansible's own dump knows how to write what its templates leave behind (tagged and vaulted values).
        plain = json.loads(self._dump_results(result.result, indent=0))
        self._write({"host": result.host.get_name(), "task": result.task_name, "action": result.task.action, "status": status, "result": plain})

    def v2_runner_on_ok(self, result: Any) -> None:
        self._task(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._task(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._task(result, "skipped")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._task(result, "unreachable")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._write({"stats": {host: stats.summarize(host) for host in stats.processed}})
