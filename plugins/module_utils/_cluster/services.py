# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many services at once, with one list call for each kind. Reads only; missing permissions are noted.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import ISTIO_NAMESPACE, UNREADABLE, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import choose_clients, client_pod, is_ready, pick_clients, with_zones
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import Name, name_of
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientChoice, ClientPod, JsonDict, Scope

# Enough to hide the waiting, few enough not to be a burden to the API server.
AT_ONCE = 8
SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(frozen=True)
class Objects:
    """The objects that were read. `slices` are the EndpointSlices by (namespace, service), or None without permission
    to read them; `filters` are the EnvoyFilters that change each client's filter chains; `unread` are messages. `sidecars` are
    those of the clients' namespaces and the root namespace, or None without permission to read them. `trusted` tells whether the
    options name the clients' namespace, so that they may speak for services in others."""

    services: tuple[JsonDict, ...]
    slices: Mapping[Name, list[JsonDict]] | None
    rules: tuple[JsonDict, ...]
    clients: tuple[ClientPod, ...]
    filters: Mapping[ClientPod, tuple[str, ...]]
    unread: tuple[str, ...]
    sidecars: tuple[JsonDict, ...] | None = ()
    trusted: bool = False

    def sidecars_for(self, namespace: str) -> list[JsonDict] | None:
        """The Sidecars that may apply to the pods of a namespace, or None if they are not known."""
        if self.sidecars is None:
            return None
        own = [entry for entry in self.sidecars if entry["metadata"]["namespace"] == namespace]
        return own or [entry for entry in self.sidecars if entry["metadata"]["namespace"] == ISTIO_NAMESPACE]


class Lists:
    """List calls over the scope: one for the whole cluster, or one for each namespace; `unread` notes missing permissions."""

    def __init__(self, cluster: Cluster, namespaces: tuple[str, ...] | None) -> None:
        self.cluster = cluster
        self.namespaces = namespaces
        self.unread: list[str] = []

    def items(self, plural: str, extra: Iterable[str] = (), selector: str = "") -> list[JsonDict] | None:
        """All objects of a kind in the scope and in `extra` namespaces; None if none of them can be read."""
        if self.namespaces is None:
            try:
                return self.cluster.listed(plural, None, selector)
            except CheckError as error:
                if error.code == "not_served":
                    self.unread.append(error.msg)
                    return None
                if error.code != "forbidden":
                    raise
                namespaces = self._all_namespaces(error)
        else:
            namespaces = self.namespaces
        lists = [self._in(plural, namespace, selector) for namespace in dict.fromkeys((*namespaces, *extra))]
        readable = [items for items in lists if items is not None]
        return [item for items in readable for item in items] if readable else None

    def _in(self, plural: str, namespace: str, selector: str) -> list[JsonDict] | None:
        return self.noted(self.cluster.listed, plural, namespace, selector)

    def noted(self, read: Callable[..., list[JsonDict]], *words: Any) -> list[JsonDict] | None:
        """The result of a read, or None without permission or without the kind, which is then noted."""
        try:
            return read(*words)
        except CheckError as error:
            if error.code not in UNREADABLE:
                raise
            self.unread.append(error.msg)
            return None

    def _all_namespaces(self, first: CheckError) -> tuple[str, ...]:
        """For an account that may list a kind in some namespaces only."""
        try:
            return self.cluster.namespaces()
        except CheckError as error:
            raise CheckError(error.code, f"{first.msg} The namespaces could not be listed either. Next: name them in the option namespace.") from error


def read_objects(cluster: Cluster, scope: Scope, choice: ClientChoice | None) -> Objects:
    """Read all objects from the API server. `choice` is None for the labelled pods of the scope.

    Raises `CheckError` if no service can be read at all; other missing permissions are noted.
    """
    lists = Lists(cluster, scope.namespaces)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        clients_read = pool.submit(_clients, lists, choice)
        services = _services(lists, scope)
        slices_read = pool.submit(_slices, lists, scope, services)
        clients = clients_read.result()
        extra = [ISTIO_NAMESPACE, *(client.namespace for client in clients)]
        rules_read = pool.submit(lists.items, "destinationrules", extra)
        sidecars_read = pool.submit(_sidecars, cluster, extra)
        envoy_filters = lists.items("envoyfilters", extra) or []
        filters = {client: _filters_of(cluster, client, envoy_filters) for client in clients}
        rules, slices, sidecars = tuple(rules_read.result() or ()), slices_read.result(), sidecars_read.result()
        unread, trusted = tuple(dict.fromkeys(lists.unread)), choice is not None and bool(choice.namespace)
        return Objects(services, slices, rules, clients, filters, unread, sidecars, trusted)


def _sidecars(cluster: Cluster, namespaces: Iterable[str]) -> tuple[JsonDict, ...] | None:
    """The Sidecars of the clients' namespaces and the root namespace; None if one of these may not be read. They only tell why
    a client has nothing of a service, so a permission for them is not missed otherwise."""
    try:
        return tuple(sidecar for namespace in dict.fromkeys(namespaces) for sidecar in cluster.listed("sidecars", namespace))
    except CheckError as error:
        if error.code not in UNREADABLE:
            raise
        return None


def _services(lists: Lists, scope: Scope) -> tuple[JsonDict, ...]:
    """The named service in each namespace, by a get each; or all of them by a list."""
    services: list[JsonDict] | None
    if scope.service is None or scope.namespaces is None:
        services = lists.items("services")
    else:
        read = [lists.noted(service_named, lists.cluster, namespace, scope.service) for namespace in scope.namespaces]
        services = [entry for entries in read if entries is not None for entry in entries] if any(entries is not None for entries in read) else None
    if services is None:
        raise CheckError("forbidden", lists.unread[0])
    return tuple(service for service in services if scope.service in (None, service["metadata"]["name"]))


def service_named(cluster: Cluster, namespace: str, name: str) -> list[JsonDict]:
    service = cluster.service(namespace, name)
    return [service] if service else []


def _slices(lists: Lists, scope: Scope, services: Sequence[JsonDict]) -> dict[Name, list[JsonDict]] | None:
    if scope.service is None or scope.namespaces is None:
        slices = lists.items("endpointslices")
    else:
        read = [lists.noted(lists.cluster.endpoint_slices, *name_of(service)) for service in services]
        slices = [entry for entries in read if entries is not None for entry in entries] if None not in read else None
    if slices is None:
        return None
    by_service: dict[Name, list[JsonDict]] = {}
    for entry in slices:
        service = (entry["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        by_service.setdefault((entry["metadata"]["namespace"], service or ""), []).append(entry)
    return by_service


def _clients(lists: Lists, choice: ClientChoice | None) -> tuple[ClientPod, ...]:
    """The clients of the option, or the labelled pods of the scope, selected in each namespace as for a service there."""
    if choice is not None and choice.namespace:
        try:
            return choose_clients(lists.cluster, choice)
        except CheckError as error:
            if error.code not in ("no_client", "client_not_running", "forbidden"):
                raise
            lists.unread.append(error.msg)
            return ()
    selector = choice.selector if choice else ""
    ready = [pod for pod in lists.items("pods", selector=selector) or [] if is_ready(pod)]
    clients: list[ClientPod] = []
    for pod in ready:
        try:
            clients.append(client_pod(pod, choice.container if choice else None))
        except CheckError as error:
            lists.unread.append(error.msg)
    most = choice.max if choice else None
    by_namespace: dict[str, list[ClientPod]] = {}
    for client in clients if most else with_zones(lists.cluster, clients, {}):
        by_namespace.setdefault(client.namespace, []).append(client)
    return tuple(client for _namespace, near in sorted(by_namespace.items()) for client in pick_clients(near, most))


def _filters_of(cluster: Cluster, client: ClientPod, filters: Iterable[JsonDict]) -> tuple[str, ...]:
    """The EnvoyFilters that add HTTP filters to the client's outbound listeners. Patches of clusters and routes are visible
    in Envoy's own configuration."""
    near = [entry for entry in filters if entry["metadata"]["namespace"] in (client.namespace, ISTIO_NAMESPACE) and _adds_filters(entry)]
    selecting = [entry for entry in near if _selector(entry)]
    labels = _labels(cluster, client) if selecting else {}
    return tuple("/".join(name_of(entry)) for entry in near if _selector(entry).items() <= labels.items())


def _selector(entry: JsonDict) -> dict[str, str]:
    return dict(((entry["spec"] or {}).get("workloadSelector") or {}).get("labels") or {})


def _labels(cluster: Cluster, client: ClientPod) -> dict[str, str]:
    pod = cluster.pod(client.namespace, client.pod)
    return dict((pod or {}).get("metadata", {}).get("labels") or {})


def _adds_filters(entry: JsonDict) -> bool:
    spec = entry.get("spec") or {}
    if spec.get("targetRefs"):
        return False
    return any(
        patch.get("applyTo") == "HTTP_FILTER" and (patch.get("match") or {}).get("context", "ANY") in ("ANY", "SIDECAR_OUTBOUND")
        for patch in spec.get("configPatches") or []
    )
