# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rate that all clients of a run share. Waits, no other I/O.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECOND = 1.0
# How often to look whether a chunk that is under way has ended.
TICK = 0.01


class Pace:
    """No interval of one second has more requests than the rate, whatever the number of clients.

    When a request of a chunk was sent is known only to lie between the chunk's start and its end. A chunk may start if it,
    those that ended less than a second ago, and those under way have no more requests than the rate together. Chunks also
    start at an even distance, as a burst is no even load.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self.rate = rate
        # So small that ten chunks or more make a second, if the rate allows.
        self.chunk = max(1, rate // 10)
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._chunks: list[list[float]] = []
        self._next = -math.inf

    @contextmanager
    def turn(self, count: int) -> Iterator[None]:
        """Wait for this many requests' turn, and note when they have been sent."""
        entry = [math.inf, float(count)]
        while (seconds := self._enter(entry)) > 0:
            self._sleep(seconds)
        try:
            yield
        finally:
            entry[0] = self._clock()

    def _enter(self, entry: list[float]) -> float:
        """Take the turn (0), or the seconds to wait before the next try."""
        with self._lock:
            now = self._clock()
            self._chunks = [chunk for chunk in self._chunks if chunk[0] > now - SECOND]
            if now < self._next:
                return self._next - now
            if sum(count for _end, count in self._chunks) + entry[1] > self.rate:
                ends = min(chunk[0] for chunk in self._chunks)
                return max(TICK, ends + SECOND - now) if ends < math.inf else TICK
            self._chunks.append(entry)
            self._next = now + entry[1] / self.rate
            return 0.0
