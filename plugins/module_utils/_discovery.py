# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many services at once: what Kubernetes says of them in a list call for each kind, what the clients' Envoys have in one
exec for each client. Reads only; what may not be read is noted, and everything else goes on.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils import _curl, _envoy
from ansible_collections.meshops.istio.plugins.module_utils._envoy import AdminDump
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientPod, JsonDict, Key, Membership, ProxyView, Target
from ansible_collections.meshops.istio.plugins.module_utils._session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._static import Asked, Seen
from ansible_collections.meshops.istio.plugins.module_utils._survey import (
    ISTIO_NAMESPACE,
    ClientChoice,
    Cluster,
    choose_clients,
    choose_port,
    client_pod,
    concerns,
    is_ready,
    listener_of,
    membership_of,
    pick_clients,
    speaks_http,
    with_zones,
)

# Enough to hide the waiting, few enough not to be a burden to the API server.
AT_ONCE = 8
LOOK_TIMEOUT = 60
SERVICE_LABEL = "kubernetes.io/service-name"

Name = tuple[str, str]


@dataclass(frozen=True)
class Scope:
    """What is to be looked at: these namespaces (None: all), and there one service by its name, or whatever asks for affinity."""

    namespaces: tuple[str, ...] | None
    service: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Objects:
    """What the API server said. C(slices) are the EndpointSlices by (namespace, service), or None where they may not be
    read; C(filters) are for each client the EnvoyFilters that reach its filter chains; C(unread) are sentences for people."""

    services: tuple[JsonDict, ...]
    slices: Mapping[Name, list[JsonDict]] | None
    rules: tuple[JsonDict, ...]
    clients: tuple[ClientPod, ...]
    filters: Mapping[ClientPod, tuple[str, ...]]
    unread: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """One port of a service with all that is known of it. C(membership) is None where the endpoints may not be read."""

    target: Target
    asked: Asked
    membership: Membership | None
    seen: tuple[Seen, ...]


class Lists:
    """List calls over the scope: the whole cluster in one, or namespace by namespace, and what may not be read noted."""

    def __init__(self, cluster: Cluster, namespaces: tuple[str, ...] | None) -> None:
        self.cluster = cluster
        self.namespaces = namespaces
        self.unread: list[str] = []

    def items(self, plural: str, extra: Iterable[str] = (), selector: str = "") -> list[JsonDict] | None:
        """All objects of a kind, also those in some namespaces besides; None where nothing of it may be read."""
        if self.namespaces is None:
            try:
                return self.cluster.listed(plural, None, selector)
            except CheckError as error:
                if error.code != "forbidden":
                    raise
                namespaces = self._all_namespaces(error)
        else:
            namespaces = self.namespaces
        found = [self._in(plural, namespace, selector) for namespace in dict.fromkeys((*namespaces, *extra))]
        readable = [items for items in found if items is not None]
        return [item for items in readable for item in items] if readable else None

    def _in(self, plural: str, namespace: str, selector: str) -> list[JsonDict] | None:
        return self.noted(self.cluster.listed, plural, namespace, selector)

    def noted(self, read: Callable[..., list[JsonDict]], *words: Any) -> list[JsonDict] | None:
        """What a read finds, or None where it may not be read, which is then noted."""
        try:
            return read(*words)
        except CheckError as error:
            if error.code != "forbidden":
                raise
            self.unread.append(error.msg)
            return None

    def _all_namespaces(self, first: CheckError) -> tuple[str, ...]:
        """For an account that may list a kind in some namespaces only."""
        try:
            return self.cluster.namespaces()
        except CheckError as error:
            raise CheckError(error.code, f"{first.msg} Nor could the namespaces be listed. Next: name those to look at in the option namespace.") from error


def read_objects(cluster: Cluster, scope: Scope, choice: ClientChoice | None) -> Objects:
    """All that the API server has to say. C(choice) is None for the labelled pods of the scope.

    Raises L(CheckError) where no service may be read at all; other things that may not be read are noted.
    """
    lists = Lists(cluster, scope.namespaces)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        clients_read = pool.submit(_clients, lists, choice)
        services = _services(lists, scope)
        slices_read = pool.submit(_slices, lists, scope, services)
        clients = clients_read.result()
        besides = [ISTIO_NAMESPACE, *(client.namespace for client in clients)]
        rules_read = pool.submit(lists.items, "destinationrules", besides)
        envoy_filters = lists.items("envoyfilters", besides) or []
        filters = {client: _filters_of(cluster, client, envoy_filters) for client in clients}
        return Objects(services, slices_read.result(), tuple(rules_read.result() or ()), clients, filters, tuple(dict.fromkeys(lists.unread)))


def _services(lists: Lists, scope: Scope) -> tuple[JsonDict, ...]:
    """The named service in each namespace, by a get each; or all of them by a list."""
    found: list[JsonDict] | None
    if scope.service is None or scope.namespaces is None:
        found = lists.items("services")
    else:
        read = [lists.noted(_named, lists.cluster, namespace, scope.service) for namespace in scope.namespaces]
        found = [entry for entries in read if entries is not None for entry in entries] if any(entries is not None for entries in read) else None
    if found is None:
        raise CheckError("forbidden", lists.unread[0])
    return tuple(service for service in found if scope.service in (None, service["metadata"]["name"]))


def _named(cluster: Cluster, namespace: str, name: str) -> list[JsonDict]:
    found = cluster.service(namespace, name)
    return [found] if found else []


def _slices(lists: Lists, scope: Scope, services: Sequence[JsonDict]) -> dict[Name, list[JsonDict]] | None:
    if scope.service is None or scope.namespaces is None:
        found = lists.items("endpointslices")
    else:
        read = [lists.noted(lists.cluster.endpoint_slices, *name_of(service)) for service in services]
        found = [entry for entries in read if entries is not None for entry in entries] if None not in read else None
    if found is None:
        return None
    by_service: dict[Name, list[JsonDict]] = {}
    for entry in found:
        service = (entry["metadata"].get("labels") or {}).get(SERVICE_LABEL)
        by_service.setdefault((entry["metadata"]["namespace"], service or ""), []).append(entry)
    return by_service


def name_of(entry: JsonDict) -> Name:
    return entry["metadata"]["namespace"], entry["metadata"]["name"]


def _clients(lists: Lists, choice: ClientChoice | None) -> tuple[ClientPod, ...]:
    """Those of the option, or the labelled pods of the scope, chosen in each namespace as for a service there."""
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
    return tuple(client for _namespace, found in sorted(by_namespace.items()) for client in pick_clients(found, most))


def _filters_of(cluster: Cluster, client: ClientPod, filters: Iterable[JsonDict]) -> tuple[str, ...]:
    """The EnvoyFilters that put HTTP filters into the client's way out. What patches cluster or route shows in Envoy's
    own configuration and need not be guessed."""
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


# -- the clients' Envoys ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What came of one client: its Envoy's pages, or why there are none."""

    dump: AdminDump | None
    error: str | None = None


def look_at_all(configuration: Any, scope: Scope, objects: Objects) -> dict[ClientPod, Look]:
    """One exec for each client, whatever the number of services."""
    if not objects.services:
        return {}
    spaces = sorted({service["metadata"]["namespace"] for service in objects.services}) if scope.namespaces else None
    ports = [(service, port) for service in objects.services for port in ports_of(service)]
    listeners = [listener for service, port in ports if (listener := listener_of(service, port))]
    urls = _envoy.wide_pages(spaces, [port["port"] for _service, port in ports], listeners)
    wanted = _envoy.wide_filter(spaces)

    def look(client: ClientPod) -> Look:
        try:
            with PodSession(configuration, client, LOOK_TIMEOUT) as session:
                _curl.check_curl(session.curl_line, session.exec.where)
                pages = session.read(urls, wanted)
                session.end()
            return Look(_envoy.parse_pages(pages))
        except CheckError as error:
            return Look(None, error.msg)

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return dict(zip(objects.clients, pool.map(look, objects.clients), strict=True))


def ports_of(service: JsonDict) -> list[JsonDict]:
    return [port for port in service["spec"].get("ports") or [] if port.get("protocol", "TCP") == "TCP"]


# -- putting it together ----------------------------------------------------------------------------------------------


def find(scope: Scope, objects: Objects, looks: Mapping[ClientPod, Look]) -> list[Found]:
    """The ports to show: of a named service those that are meant, else all that ask for affinity.

    Raises L(CheckError) with C(no_port) where the named service has no such port.
    """
    hashed: dict[Name, set[int]] = {}
    for look in looks.values():
        for name, ports in (_envoy.hashed_ports(look.dump) if look.dump else {}).items():
            hashed.setdefault(name, set()).update(ports)
    rules = Rules(objects.rules)
    found: list[Found] = []
    for service in sorted(objects.services, key=name_of):
        asking = rules.of(service)
        shown = _ports_to_show(scope, service, asking, hashed.get(name_of(service), set()))
        found.extend(_found(objects, looks, service, port, asking) for port in shown)
    return found


def _ports_to_show(scope: Scope, service: JsonDict, asked: Asked, hashed: set[int]) -> list[JsonDict]:
    ports = ports_of(service)
    if scope.port is not None:
        if scope.service is not None:
            return [choose_port(service, scope.port)]
        return [port for port in ports if port["port"] == scope.port and (asked.rules or scope.port in hashed)]
    asking = [port for port in ports if port["port"] in hashed]
    if asking or (scope.service is None and not asked.rules):
        return asking
    return [port for port in ports if speaks_http(port)] or ports


def _found(objects: Objects, looks: Mapping[ClientPod, Look], service: JsonDict, port: JsonDict, asked: Asked) -> Found:
    namespace, name = name_of(service)
    target = Target(namespace, name, port["port"], port.get("name"), f"{name}.{namespace}", listener=listener_of(service, port))
    membership = membership_of(objects.slices.get((namespace, name), []), target) if objects.slices is not None else None
    seen = []
    for client in _clients_of(namespace, objects.clients):
        look = looks[client]
        near = replace(target, host=name) if client.namespace == namespace else target
        view, error = _view(look, near)
        seen.append(Seen(client, view, error, objects.filters.get(client, ())))
    return Found(target, asked, membership, tuple(seen))


def _view(look: Look, target: Target) -> tuple[ProxyView | None, str | None]:
    """One service's part of a look, or why there is none."""
    if look.dump is None:
        return None, look.error
    try:
        return _envoy.view_of(look.dump, target), None
    except CheckError as error:
        return None, error.msg


def _clients_of(namespace: str, clients: Sequence[ClientPod]) -> tuple[ClientPod, ...]:
    """Those of the service's namespace; where there is none, one for each zone from elsewhere."""
    near = tuple(client for client in clients if client.namespace == namespace)
    return near or pick_clients(clients, None)


class Rules:
    """The DestinationRules that ask for affinity, by the service that they name; those with a wildcard apart."""

    def __init__(self, rules: Iterable[JsonDict]) -> None:
        self.exact: dict[Name, list[JsonDict]] = {}
        self.wild: list[JsonDict] = []
        for rule in {name_of(entry): entry for entry in rules if keys_of(entry)}.values():
            host = str(rule["spec"].get("host", ""))
            if host.startswith("*"):
                self.wild.append(rule)
            else:
                name, _dot, rest = host.partition(".")
                self.exact.setdefault((rest.split(".")[0] or rule["metadata"]["namespace"], name), []).append(rule)

    def of(self, service: JsonDict) -> Asked:
        namespace, name = name_of(service)
        target = Target(namespace, name, 0, None, name)
        rules = [*self.exact.get((namespace, name), []), *(rule for rule in self.wild if concerns("DestinationRule", rule, target))]
        keys = dict.fromkeys(key for rule in rules for key in keys_of(rule))
        return Asked(tuple("/".join(name_of(rule)) for rule in rules), tuple(keys), service["spec"].get("clusterIP") == "None")


def keys_of(rule: JsonDict) -> list[Key]:
    """What a DestinationRule hashes on, at any of its levels; nothing if it asks for no affinity."""
    spec = rule.get("spec") or {}
    policies = [spec.get("trafficPolicy") or {}, *(subset.get("trafficPolicy") or {} for subset in spec.get("subsets") or [])]
    levels = [level for policy in policies for level in (policy, *(policy.get("portLevelSettings") or []))]
    hashes = [(level.get("loadBalancer") or {}).get("consistentHash") for level in levels]
    return [key for entry in hashes if entry and (key := _key_of(entry))]


def _key_of(consistent_hash: JsonDict) -> Key | None:
    cookie = (consistent_hash.get("httpCookie") or {}).get("name")
    for kind, name in (("header", consistent_hash.get("httpHeaderName")), ("cookie", cookie), ("query", consistent_hash.get("httpQueryParameterName"))):
        if name:
            return Key(kind, str(name), "rule")
    return Key("source_ip", None, "rule") if consistent_hash.get("useSourceIp") else None
