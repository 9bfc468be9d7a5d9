# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stops the check to protect the service: it reports overload, or too many requests fail. No I/O.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError


@dataclass(frozen=True)
class StopOn:
    """The option `stop_on`: stop at the first response with one of `statuses`, or when server errors (5xx) exceed this share
    of the planned requests (None: never)."""

    statuses: frozenset[int]
    server_errors: float | None


class Brake:
    """Counts the responses of all clients of a run; once it has stopped, no client sends more requests.

    The share of server errors refers to the planned requests, not to those sent so far: one early 503 does not stop the
    check, and a service that only fails gets no more than that share.
    """

    def __init__(self, stop_on: StopOn | None, planned: int) -> None:
        self._stop_on = stop_on
        self._planned = planned
        self._counts: Counter[int] = Counter()
        self._lock = threading.Lock()
        # A client saw a session move, and no client sends more (the option fail_fast).
        self.halted = False

    @property
    def watches(self) -> bool:
        return self._stop_on is not None

    def note(self, statuses: Iterable[int]) -> None:
        """Count responses of one client. Raises `CheckError` with `stopped` if all responses so far meet a condition."""
        with self._lock:
            self._counts.update(statuses)
            reason = self._reason()
        if reason:
            raise CheckError("stopped", f"The check stopped: {reason}. Next: find out which load the service can take, or lower the options rate and requests.")

    def _reason(self) -> str | None:
        if self._stop_on is None:
            return None
        unwanted = sorted(status for status in self._counts if status in self._stop_on.statuses)
        if unwanted:
            return f"a response had status {unwanted[0]}, which the option stop_on lists"
        errors = sum(count for status, count in self._counts.items() if 500 <= status <= 599)
        if self._stop_on.server_errors is not None and errors > self._stop_on.server_errors * self._planned:
            return f"{errors} responses are server errors (5xx), more than {self._stop_on.server_errors:.2%} of the {self._planned} requests planned"
        return None
