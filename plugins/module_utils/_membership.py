# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The endpoints of a service as its EndpointSlices show them, and how they change. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, Checkpoint, ClusterView, JsonDict, Membership, ProxyView, Target

# Seconds within which a change of the endpoints reaches Envoy. A tenth is usual; while pods come and go istiod waits
# for quiet. More than needed excuses nothing by itself, as each move needs a change of its own.
PUSH_DELAY = 5.0
# After so long without another change it has, as a rule; the age of the last change is known to the second only.
USUAL_DELAY = 2.0


def age_of(slices: Iterable[JsonDict], now: str | None) -> float | None:
    """Seconds since the last write to any of the slices, give or take one; None if the API server does not tell."""
    times = [field["time"] for entry in slices for field in entry["metadata"].get("managedFields") or [] if field.get("time")]
    if not times or now is None:
        return None
    last = max(datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for time in times)
    return (parsedate_to_datetime(now) - last).total_seconds()


def membership_of(slices: Iterable[JsonDict], target: Target) -> Membership:
    """Endpoints of the target's port in all slices. An address in two slices (dual stack) counts once for each."""
    generations: dict[str, int] = {}
    backends: list[Backend] = []
    for entry in slices:
        generations[entry["metadata"]["uid"]] = int(entry["metadata"].get("generation") or 0)
        for port in entry.get("ports") or []:
            if target.port_name in (None, "", port.get("name")):
                backends.extend(_backends(entry, int(port["port"])))
    return Membership(generations, tuple(sorted(set(backends), key=lambda backend: backend.address)))


def _backends(entry: JsonDict, port: int) -> Iterable[Backend]:
    for endpoint in entry.get("endpoints") or []:
        reference = endpoint.get("targetRef") or {}
        # A missing condition is to be read as true, except terminating (EndpointSlice API).
        ready = (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or []:
            shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            yield Backend(
                pod=reference.get("name") or address,
                uid=reference.get("uid") or "",
                address=shown,
                node=endpoint.get("nodeName"),
                zone=endpoint.get("zone"),
                ready=ready,
            )


def changes(before: Membership, after: Membership) -> int:
    """The minimum number of changes of the endpoints between two reads: each change raises a slice's generation by one."""
    count = 0
    for uid in before.slices.keys() | after.slices.keys():
        if uid in before.slices and uid in after.slices:
            count += abs(after.slices[uid] - before.slices[uid])
        else:
            count += 1
    return count or int(ready_addresses(before) != ready_addresses(after))


def gateway_changes(first: Checkpoint, second: Checkpoint) -> int:
    """The minimum number of changes of the gateway's endpoints between two checkpoints."""
    return changes(first.gateway, second.gateway)


def ready_addresses(membership: Membership) -> frozenset[str]:
    return frozenset(backend.address for backend in membership.ready())


def addresses_by_pod(membership: Membership) -> dict[str, frozenset[str]]:
    """The addresses of each ready pod: two in a dual-stack Service, of which Envoy may use one."""
    addresses: dict[str, set[str]] = {}
    for backend in membership.ready():
        addresses.setdefault(backend.pod, set()).add(backend.address)
    return {pod: frozenset(known) for pod, known in addresses.items()}


def pods_of(membership: Membership, views: Iterable[ProxyView]) -> frozenset[str]:
    """The ready pods that the route's cluster selects from. The cluster of a subset has hosts of that subset only; where
    localities have weights, a host may be missing for another reason, and all ready pods count."""
    pods = frozenset(addresses_by_pod(membership))
    for view in views:
        if view.route and view.cluster and view.hosts and len(view.route.destinations()) == 1 and _is_subset(view.cluster) and not view.cluster.by_locality:
            hosts = {host.address for host in view.hosts}
            pods &= {pod for pod, addresses in addresses_by_pod(membership).items() if addresses & hosts}
    return pods


def _is_subset(cluster: ClusterView) -> bool:
    """Whether a cluster is one of a subset, by its name: outbound|port|subset|host."""
    parts = cluster.name.split("|")
    return len(parts) == 4 and bool(parts[2])


def agrees(view: ProxyView, membership: Membership) -> bool:
    """Whether Envoy can select each pod that the cluster selects from, by any of its addresses, and nothing else."""
    addresses = addresses_by_pod(membership)
    eligible, pods = view.eligible(), pods_of(membership, [view])
    return all(addresses[pod] & eligible for pod in pods) and eligible <= ready_addresses(membership)


def is_settled(checkpoint: Checkpoint) -> bool:
    """Whether no change from before this checkpoint can still be on its way to Envoy. A late one would move sessions without
    a visible change. Requests may reach a replaced pod of the gateway for as long."""
    if checkpoint.gateway.age is not None and checkpoint.gateway.age < PUSH_DELAY:
        return False
    age = checkpoint.membership.age
    if age is None or age >= PUSH_DELAY:
        return True
    return age >= USUAL_DELAY and all(agrees(view, checkpoint.membership) for view in checkpoint.views() if view is not None)


def all_backends(memberships: Iterable[Membership]) -> list[Backend]:
    """Every endpoint of the window, each in its latest state."""
    latest = {backend.address: backend for membership in memberships for backend in membership.backends}
    return list(latest.values())
