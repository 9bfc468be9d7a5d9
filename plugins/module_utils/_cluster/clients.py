# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which pods send the requests. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import SIDECAR, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientChoice, ClientPod, JsonDict

# Istio's CNI writes it when it has put a pod into ambient mode.
AMBIENT_ANNOTATION = "ambient.istio.io/redirection"
CONTAINER_ANNOTATION = "kubectl.kubernetes.io/default-container"


def choose_clients(cluster: Cluster, choice: ClientChoice, zones: Mapping[str | None, str | None] | None = None) -> tuple[ClientPod, ...]:
    """The named pod, or the ready pods of the selector, one for each zone unless `max` sets the number; `zones`
    are the zones of nodes that are already known."""
    if choice.pod is not None:
        pod = cluster.pod(choice.namespace, choice.pod)
        if pod is None:
            raise CheckError("no_client", f"There is no Pod {choice.namespace}/{choice.pod} to send requests from. Next: correct the option client.")
        return (client_pod(pod, choice.container),)
    running = [pod for pod in cluster.pods(choice.namespace, choice.selector) if is_ready(pod)]
    if not running:
        raise CheckError(
            "no_client",
            f"No ready Pod in namespace {choice.namespace} has the label {choice.selector}. "
            f"Next: kubectl -n {choice.namespace} get pods -l {choice.selector}, or name a pod in the option client.",
        )
    candidates = [client_pod(pod, choice.container) for pod in running]
    return pick_clients(candidates if choice.max else with_zones(cluster, candidates, zones or {}), choice.max)


def with_zones(cluster: Cluster, clients: Iterable[ClientPod], zones: Mapping[str | None, str | None]) -> list[ClientPod]:
    """The clients, each with its node's zone if its pod has none: only recent versions of Kubernetes copy the node's label to
    pods, and only to those that the scheduler places. Without permission to read nodes, the zone stays unknown."""
    known: dict[str | None, str | None] = {node: zone for node, zone in zones.items() if zone}
    placed = []
    for client in clients:
        if client.zone is None and client.node and client.node not in known:
            known[client.node] = zone_of_node(cluster, client.node)
        placed.append(replace(client, zone=client.zone or known.get(client.node)))
    return placed


def zone_of_node(cluster: Cluster, name: str) -> str | None:
    try:
        node = cluster.node(name)
    except CheckError:
        return None
    return _zone(node["metadata"]) if node else None


def _zone(meta: JsonDict) -> str | None:
    return (meta.get("labels") or {}).get("topology.kubernetes.io/zone")


def pick_clients(candidates: Iterable[ClientPod], most: int | None) -> tuple[ClientPod, ...]:
    """One for each zone, or up to `most`, in the order of their names."""
    ordered = sorted(candidates, key=lambda client: (client.namespace, client.pod))
    if most is not None:
        return tuple(ordered[:most])
    by_zone: dict[str | None, ClientPod] = {}
    for client in ordered:
        by_zone.setdefault(client.zone, client)
    return tuple(by_zone.values())


def client_pod(pod: JsonDict, container: str | None) -> ClientPod:
    """Where to run curl in this pod. Raises `CheckError` with `client_not_running` or `no_container`."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    label = f"Pod {meta['namespace']}/{meta['name']}"
    if status.get("phase") != "Running" or meta.get("deletionTimestamp"):
        phase = "Terminating" if meta.get("deletionTimestamp") else status.get("phase", "unknown")
        raise CheckError("client_not_running", f"{label} is {phase}, not Running. Next: wait for it, or name another client.")
    return ClientPod(
        namespace=meta["namespace"],
        pod=meta["name"],
        uid=meta["uid"],
        node=spec.get("nodeName"),
        zone=_zone(meta),
        container=choose_container(pod, label, container),
        sidecar=has_sidecar(spec),
        address=status.get("podIP") or "",
        ambient=(meta.get("annotations") or {}).get(AMBIENT_ANNOTATION) == "enabled",
    )


def choose_container(pod: JsonDict, label: str, wanted: str | None) -> str:
    """Like kubectl, the annotated or else the first container; but never the sidecar, whose traffic is not redirected."""
    names = [container["name"] for container in pod["spec"]["containers"]]
    if wanted == SIDECAR:
        raise CheckError(
            "no_container", f"Requests from container {SIDECAR} of {label} bypass the mesh. Next: name the application's container in client.container."
        )
    if wanted is not None:
        if wanted not in names:
            raise CheckError("no_container", f"{label} has no container {wanted}; it has {', '.join(names)}. Next: correct client.container.")
        return wanted
    annotated = (pod["metadata"].get("annotations") or {}).get(CONTAINER_ANNOTATION)
    candidates = [name for name in names if name != SIDECAR]
    if annotated in candidates:
        return str(annotated)
    if not candidates:
        raise CheckError("no_container", f"{label} has no container other than {SIDECAR}. Next: name another client.")
    return str(candidates[0])


def has_sidecar(spec: JsonDict) -> bool:
    """A native sidecar is an init container, so both lists count."""
    containers = list(spec.get("containers") or []) + list(spec.get("initContainers") or [])
    return any(container["name"] == SIDECAR for container in containers)


def is_ready(pod: JsonDict) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
