# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where each session had to land by the clients' own Envoys, compared with where it did. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Key, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._ring import chooser_of, hashes_of, no_prediction, weights_of


@dataclass(frozen=True)
class Prediction:
    """C(pods) maps a session to the pod it must land on. C(available) is false where the model can't be applied or
    does not fit what was seen; C(reason) says which."""

    available: bool
    reason: str | None
    pods: dict[str, str] = field(default_factory=dict)
    matched: int | None = None
    total: int | None = None


def predict(key: Key, sessions: Sequence[str], views: Sequence[ProxyView | None], backends: Sequence[Backend]) -> Prediction:
    """The landing pods, if all views (of all clients, over the whole window) say the same."""
    if key.issued:
        return Prediction(False, "the values of the key were issued during the run")
    objection = next((reason for view in views if (reason := no_prediction(view, key))), None)
    first = views[0] if views else None
    if objection or first is None or first.cluster is None:
        return Prediction(False, objection or "no Envoy was read")
    if len({_basis(view) for view in views if view is not None}) > 1:
        return Prediction(False, "hosts or balancing were not the same throughout, or not in every client")
    names = {backend.address: backend.pod for backend in backends}
    choose = chooser_of(first.cluster, first.eligible(), weights_of(first.hosts))
    chosen = {session: choose(value) for session, value in zip(sessions, hashes_of(first, key, sessions), strict=True)}
    unknown = next((host for host in chosen.values() if host not in names), None)
    if unknown:
        return Prediction(False, f"host {unknown} is no endpoint of the service")
    return Prediction(True, None, {session: names[host] for session, host in chosen.items()})


def _basis(view: ProxyView) -> tuple[object, ...]:
    cluster = view.cluster
    sizes = (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size) if cluster else None
    eligible = view.eligible()
    policies = view.route.hash_policies if view.route else ()
    return (eligible, sizes, policies, tuple((host.address, host.weight) for host in view.hosts if host.address in eligible))


def compare(prediction: Prediction, landed: dict[str, set[str]]) -> Prediction:
    """Count the sessions that landed on the predicted pod and on no other. One that did not makes the model doubtful,
    not the mesh: whether a session moved is for the verdict to say."""
    if not prediction.available:
        return prediction
    seen = {session: pods for session, pods in landed.items() if pods}
    matched = sum(1 for session, pods in seen.items() if pods == {prediction.pods[session]})
    reason = None if matched == len(seen) else f"{len(seen) - matched} of {len(seen)} sessions landed elsewhere than computed"
    return Prediction(reason is None and bool(seen), reason, prediction.pods, matched, len(seen))
