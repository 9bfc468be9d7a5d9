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


@dataclass(frozen=True)
class Observation:
    """One response, or the lack of one: then `status` is 0 and `exit` is curl's exit code. `identity` is the identity
    headers' values, joined by `FIELD`."""

    index: int
    status: int
    exit: int
    seconds: float
    identity: str

    @property
    def answered(self) -> bool:
        return self.exit == 0 and self.status > 0
