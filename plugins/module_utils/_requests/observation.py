# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One request's outcome as curl reports it. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

# No HTTP header can contain this byte, so a response cannot forge a field.
FIELD = "\x1f"
# No route, and no upstream that is there, in time, or willing.
PROXY_ERRORS = (404, 502, 503, 504)


@dataclass(frozen=True)
class Observation:
    """One response, or the lack of one: then `status` is 0 and `exit` is curl's exit code. `identity` is the identity
    headers' values, joined by `FIELD`. `server` is the header of that name, `upstream` whether an Envoy says how long its
    upstream took."""

    index: int
    status: int
    exit: int
    seconds: float
    identity: str
    server: str = ""
    upstream: bool = False

    @property
    def by_proxy(self) -> bool:
        """Whether an Envoy wrote this error itself. Any Envoy with an upstream says how long that took."""
        return self.status in PROXY_ERRORS and "envoy" in self.server.lower() and not self.upstream

    @property
    def answered(self) -> bool:
        return self.exit == 0 and self.status > 0
