# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The input of a verdict, and the verdict itself. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import Prediction
from ansible_collections.meshops.istio.plugins.module_utils._membership import addresses_by_pod, pods_of
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, Checkpoint, ClientPod, Key, Membership, ObjectVersion, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Identification
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import Plan
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Tally, Trace


@dataclass(frozen=True)
class ClientWindow:
    """One client's part of the window, with pods in place of raw identities."""

    client: ClientPod
    plan: Plan
    tally: Tally
    traces: tuple[Trace, ...]
    keyless: dict[str, int]
    checkpoints: tuple[Checkpoint, ...]
    segments: tuple[range, ...]
    failure: CheckError | None = None
    identified_by: str | None = None

    @property
    def planned(self) -> int:
        return self.plan.keyed

    @property
    def identified(self) -> int:
        return sum(sum(trace.counts.values()) for trace in self.traces)

    def pods(self) -> set[str]:
        """The landing pods of all sessions."""
        return {pod for trace in self.traces for pod in trace.counts}

    def views(self) -> list[ProxyView]:
        return [view for checkpoint in self.checkpoints for view in checkpoint.views() if view is not None]

    def last_views(self) -> list[ProxyView]:
        return [view for view in self.checkpoints[-1].views() if view is not None] if self.checkpoints else []


@dataclass(frozen=True)
class Window:
    """Everything between the first checkpoint and the last one."""

    key: Key
    before: Membership
    after: Membership
    rules_before: tuple[ObjectVersion, ...]
    rules_after: tuple[ObjectVersion, ...]
    identification: Identification
    client_windows: tuple[ClientWindow, ...]
    max_flip_rate: float
    keepalive: bool = False
    via: str | None = None

    @property
    def confidence(self) -> float:
        """The confidence at which the bound holds, so that all looks at it together are wrong in at most 5 % of runs."""
        return self.client_windows[0].plan.confidence

    def ready(self) -> frozenset[str]:
        """The pods that were ready at the end."""
        return frozenset(addresses_by_pod(self.after))

    def pool(self) -> frozenset[str]:
        """The pods that the route's cluster selects from: those of the Service that are ready, or a subset's."""
        return pods_of(self.after, (view for entry in self.client_windows for view in entry.last_views()))

    def memberships(self) -> list[Membership]:
        read = [checkpoint.membership for entry in self.client_windows for checkpoint in entry.checkpoints]
        return [self.before, *read, self.after]


@dataclass(frozen=True)
class SessionFate:
    """One session over all clients. `explained` is None if it did not move."""

    id: str
    pods: dict[str, int]
    by_client: dict[str, dict[str, int]]
    moved: bool
    explained: bool | None
    requested: bool = True


@dataclass(frozen=True)
class Control:
    """A control's `state` is passed, failed or not_applicable."""

    state: str
    detail: str


@dataclass(frozen=True)
class Verdict:
    """The verdict, its reasons as sentences, and the figures behind it."""

    verdict: str
    reasons: tuple[str, ...]
    fates: tuple[SessionFate, ...]
    controls: dict[str, Control]
    changed: bool
    events: tuple[str, ...]
    flip_rate_95: float | None
    false_pass: float | None
    prediction: Prediction
    churn_only: bool = False
    eligible: dict[str, bool | None] = field(default_factory=dict)
