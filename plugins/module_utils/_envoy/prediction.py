# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The landing pod of each session, computed from the clients' Envoys and compared with the measurement. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import chooser_of, request_hash
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Host, Key, ProxyView, hashed_value


@dataclass(frozen=True)
class Prediction:
    """`pods` maps a session to the pod it must land on. `available` is false if the model does not apply or does
    not fit the measurement; `reason` says which."""

    available: bool
    reason: str | None
    pods: dict[str, str] = field(default_factory=dict)
    matched: int | None = None
    total: int | None = None


def predict(key: Key, sessions: Sequence[str], views: Sequence[ProxyView | None], backends: Sequence[Backend]) -> Prediction:
    """The landing pods, if all views (of all clients, over the whole window) agree."""
    if key.issued:
        return Prediction(False, "the values of the key were issued during the run")
    objection = next((reason for view in views if (reason := no_prediction(view, key))), None)
    first = views[0] if views else None
    if objection or first is None or first.cluster is None:
        return Prediction(False, objection or "no Envoy was read")
    if len({_basis(view) for view in views if view is not None}) > 1:
        return Prediction(False, "hosts or balancing changed during the window, or differ between clients")
    names = {backend.address: backend.pod for backend in backends}
    choose = chooser_of(first.cluster, first.in_order(), weights_of(first.hosts))
    chosen = {session: choose(value) for session, value in zip(sessions, hashes_of(first, key, sessions), strict=True)}
    unknown = next((host for host in chosen.values() if host not in names), None)
    if unknown:
        return Prediction(False, f"host {unknown} is not an endpoint of the service")
    return Prediction(True, None, {session: names[host] for session, host in chosen.items()})


def _basis(view: ProxyView) -> tuple[object, ...]:
    cluster = view.cluster
    sizes = (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size) if cluster else None
    eligible = view.eligible()
    return (eligible, sizes, view.policies(), tuple((host.address, host.weight) for host in view.hosts if host.address in eligible))


def compare(prediction: Prediction, landed: dict[str, set[str]]) -> Prediction:
    """Count the sessions that landed only on the predicted pod. Any other session casts doubt on the model, not on the mesh:
    the verdict decides whether a session moved."""
    if not prediction.available:
        return prediction
    measured = {session: pods for session, pods in landed.items() if pods}
    matched = sum(1 for session, pods in measured.items() if pods == {prediction.pods[session]})
    reason = None if matched == len(measured) else f"{len(measured) - matched} of {len(measured)} sessions landed elsewhere than computed"
    return Prediction(reason is None and bool(measured), reason, prediction.pods, matched, len(measured))


def no_prediction(view: ProxyView | None, key: Key) -> str | None:
    """Why the landing host cannot be computed from this view, or None if it can. It is never guessed."""
    if view is None:
        return "the client's Envoy could not be read"
    if view.route is None or view.cluster is None:
        return "the client's Envoy has no route or no cluster for the service"
    objections = {
        "the route is weighted over several clusters": not view.route.destinations() or not view.alike,
        "the client's Envoy does not hash on the key": not view.balances_by(key),
        "the route has several hash policies": len(set(view.policies())) > 1,
        **_changed_on_the_way(view, key),
        **_uneven_hosts(view),
    }
    return next((objection for objection, holds in objections.items() if holds), None)


def _changed_on_the_way(view: ProxyView, key: Key) -> dict[str, bool]:
    """Why Envoy hashes something other than the value that was sent."""
    route, cluster = view.route, view.cluster
    unusual = [*(route.unusual if route else ()), *(cluster.unusual if cluster else ())]
    return {
        f"the route removes, sets or adds the {key} before Envoy hashes it": touches_key(view, key) is not None,
        f"an EnvoyFilter changes how requests are hashed: {', '.join(unusual)}": bool(unusual),
    }


def touches_key(view: ProxyView, key: Key) -> str | None:
    """What the route does to the header that carries the key before Envoy hashes it: removes, sets, adds; None if nothing."""
    header = {"header": (key.name or "").lower(), "cookie": "cookie"}.get(key.type)
    if view.route is None or header is None:
        return None
    touched = {
        "removes": header in view.route.headers_removed,
        "sets": any(name == header for name, _value in view.route.headers_set),
        "adds": header in view.route.headers_added,
    }
    return next((word for word, holds in touched.items() if holds), None)


def _uneven_hosts(view: ProxyView) -> dict[str, bool]:
    usable = [host for host in view.hosts if host.healthy]
    ring = view.cluster is not None and view.cluster.lb_policy == "RING_HASH"
    by_locality = view.cluster is not None and view.cluster.by_locality
    return {
        "no host is healthy": not usable,
        "so many hosts are unhealthy that Envoy is in panic mode": view.panics(),
        "hosts have several priorities": len({host.priority for host in view.hosts}) > 1,
        # With such weights the positions of hosts on a ring depend on their order, which the admin pages do not show.
        "hosts on a ring have different weights": ring and len({host.weight for host in usable}) > 1,
        "localities have weights": by_locality and len({host.zone for host in usable}) > 1,
        "hosts are reached through HBONE tunnels": any(host.hbone for host in usable),
    }


def hashes_of(view: ProxyView, key: Key, sessions: Iterable[str]) -> tuple[int, ...]:
    """The hashes of these sessions' requests, by as many equal policies as the route has (one for each destination)."""
    policies = len(view.policies()) or 1
    return tuple(request_hash(hashed_value(key, session), policies) for session in sessions)


def weights_of(hosts: Iterable[Host]) -> dict[str, int]:
    return {host.address: host.weight for host in hosts}
