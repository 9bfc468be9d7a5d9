# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One request's outcome as curl reports it. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

# No HTTP header may hold this byte, so an answer can't forge a field.
FIELD = "\x1f"


@dataclass(frozen=True)
class Observation:
    """One answer, or the lack of one. C(status) is 0 and C(exit) curl's exit code where nothing came back.

    C(upstream) is true for an answer that an application gave: Envoy adds x-envoy-upstream-service-time to those
    only, so an error page of Envoy's own has it not. C(identity) is the identity headers' values, joined by L(FIELD).
    """

    index: int
    status: int
    exit: int
    seconds: float
    server: str
    upstream: bool
    identity: str

    @property
    def answered(self) -> bool:
        return self.exit == 0 and self.status > 0
