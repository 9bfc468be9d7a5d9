# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The story of istio_affinity_info: many services at once, from one read of each client's Envoy. Sends no requests.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of_inspection
from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Access, Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import pick_clients
from ansible_collections.meshops.istio.plugins.module_utils._cluster.facts import read_facts
from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import AT_ONCE, Objects, read_objects
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import wide_filter, wide_pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import Prediction, hashes_of, predict
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import (
    DEFAULT_KEY,
    AdminDump,
    hashed_ports,
    key_in_force,
    mesh_domains,
    parse_pages,
    view_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import hidden_from
from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import choose_port, is_http, listener_of, tcp_ports
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import AffinityRules, Declared, name_of
from ansible_collections.meshops.istio.plugins.module_utils._membership import membership_of, pods_of, pods_without, ready_addresses
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    CheckError,
    ClientPod,
    Facts,
    JsonDict,
    Key,
    Membership,
    ProxyView,
    Scope,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._options import Wanted
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import check_curl
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import generated
from ansible_collections.meshops.istio.plugins.module_utils._result import finding_result, halves
from ansible_collections.meshops.istio.plugins.module_utils._verdict.static import ClientView, static_verdict
from ansible_collections.meshops.istio.plugins.module_utils._verdict.what_if import SESSIONS, Balancing, Scenario, no_outcome, outcome

READ_TIMEOUT = 60


@dataclass(frozen=True)
class Reading:
    """The result of reading one client's Envoy: its pages, or the reason why there are none."""

    dump: AdminDump | None
    error: str | None = None

    def reasons(self, client: ClientPod) -> list[str]:
        """Why there are no pages, or not all of them."""
        lost = self.dump.unread if self.dump else {}
        pages = [f"The Envoy of pod {client} could not be read completely ({name}: {why})." for name, why in lost.items()]
        return [self.error, *pages] if self.error else pages


@dataclass(frozen=True)
class PortInspection:
    """One port of a service with everything known about it. `membership` is None without permission to read the endpoints."""

    target: Target
    declared: Declared
    membership: Membership | None
    client_views: tuple[ClientView, ...]

    @property
    def view(self) -> ProxyView | None:
        """The view of the first client that has one."""
        return next((entry.view for entry in self.client_views if entry.view), None)

    @property
    def backends(self) -> tuple[Backend, ...]:
        return self.membership.backends if self.membership else ()


def inspect(wanted: Wanted, access: Access) -> tuple[list[JsonDict], list[str]]:
    """Read the objects, then the clients' Envoys, then judge each port.

    Returns the services, and sentences on what could not be read.
    """
    objects = read_objects(access.cluster, wanted.scope, wanted.choice)
    readings = read_proxies(access.configuration, wanted.scope, objects)
    inspections = inspect_ports(wanted.scope, objects, readings, wanted.key, wanted.sessions)
    if wanted.scenario and inspections:
        check_scenario(access.cluster, wanted.scenario, inspections)
    unread = [*objects.unread, *(reason for client, reading in readings.items() for reason in reading.reasons(client))]
    facts = None
    if inspections:
        views = [each.view for entry in inspections for each in entry.client_views]
        facts = read_facts(access.cluster, [entry.target for entry in inspections], list(readings), views)
    return [{**describe(entry, wanted), "findings": causes_of(entry, wanted, facts)} for entry in inspections], list(dict.fromkeys(unread))


# -- reading the clients' Envoys --


def read_proxies(configuration: Any, scope: Scope, objects: Objects) -> dict[ClientPod, Reading]:
    """One exec for each client, whatever the number of services."""
    if not objects.services:
        return {}
    spaces = sorted({service["metadata"]["namespace"] for service in objects.services}) if scope.namespaces else None
    ports = [(service, port) for service in objects.services for port in tcp_ports(service)]
    listeners = [listener for service, port in ports if (listener := listener_of(service, port))]
    urls = wide_pages(spaces, [port["port"] for _service, port in ports], listeners)
    line_filter = wide_filter(spaces)

    def read(client: ClientPod) -> Reading:
        try:
            with PodSession(configuration, client, READ_TIMEOUT) as session:
                check_curl(session.curl_line, session.exec.where)
                pages = session.read(urls, line_filter)
                session.end()
            return Reading(parse_pages(pages))
        except CheckError as error:
            return Reading(None, error.msg)

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return dict(zip(objects.clients, pool.map(read, objects.clients), strict=True))


# -- which ports to show --


def inspect_ports(
    scope: Scope, objects: Objects, readings: Mapping[ClientPod, Reading], key: Key | None = None, sessions: tuple[str, ...] = ()
) -> list[PortInspection]:
    """The ports to return: those of a named service that the scope selects, else all that ask for affinity. `key` and
    `sessions` are those of the options.

    Raises `CheckError` with `no_port` where the named service has no such port.
    """
    dumps = [reading.dump for reading in readings.values() if reading.dump]
    hashed = {client: hashed_ports(reading.dump) for client, reading in readings.items() if reading.dump}
    rules = AffinityRules(objects.rules, frozenset(domain for dump in dumps for domain in mesh_domains(dump)))
    inspections: list[PortInspection] = []
    for service in sorted(objects.services, key=name_of):
        declared = rules.for_service(service)
        clients = _clients_of(service["metadata"]["namespace"], objects)
        shown = _ports_to_show(scope, service, declared, {port for client in clients for port in hashed.get(client, {}).get(name_of(service), ())})
        inspections.extend(_inspection_of(objects, readings, service, port, declared, key, sessions) for port in shown)
    return inspections


def _ports_to_show(scope: Scope, service: JsonDict, declared: Declared, hashed: set[int]) -> list[JsonDict]:
    ports = tcp_ports(service)
    if scope.port is not None:
        if scope.service is not None:
            return [choose_port(service, scope.port)]
        return [port for port in ports if port["port"] == scope.port and (declared.rules or scope.port in hashed)]
    hashing = [port for port in ports if port["port"] in hashed]
    if hashing or (scope.service is None and not declared.rules):
        return hashing
    return [port for port in ports if is_http(port)] or ports


def _inspection_of(
    objects: Objects,
    readings: Mapping[ClientPod, Reading],
    service: JsonDict,
    port: JsonDict,
    declared: Declared,
    key: Key | None,
    sessions: tuple[str, ...],
) -> PortInspection:
    namespace, name = name_of(service)
    target = Target(namespace, name, port["port"], port.get("name"), f"{name}.{namespace}", listener=listener_of(service, port), key=key, sessions=sessions)
    membership = membership_of(objects.slices.get((namespace, name), []), target) if objects.slices is not None else None
    inspection = PortInspection(target, declared, membership, _client_views(objects, readings, service, target))
    if key is None and (in_force := key_of(inspection)):
        # The route may depend on whether a request carries the key.
        target = replace(target, key=in_force)
        inspection = replace(inspection, target=target, client_views=_client_views(objects, readings, service, target))
    return inspection


def _client_views(objects: Objects, readings: Mapping[ClientPod, Reading], service: JsonDict, target: Target) -> tuple[ClientView, ...]:
    client_views = []
    for client in _clients_of(target.namespace, objects):
        near = replace(target, host=target.service) if client.namespace == target.namespace else target
        view, error = _view(readings[client], near)
        hidden = hidden_from(service, client.namespace, objects.sidecars_for(client.namespace))
        client_views.append(ClientView(client, view, error, objects.filters.get(client, ()), hidden))
    return tuple(client_views)


def _view(reading: Reading, target: Target) -> tuple[ProxyView | None, str | None]:
    """One service's part of the pages, or the reason why there is none."""
    if reading.dump is None:
        return None, reading.error
    try:
        return view_of(reading.dump, target), None
    except CheckError as error:
        return None, error.msg


def _clients_of(namespace: str, objects: Objects) -> tuple[ClientPod, ...]:
    """The clients in the service's namespace; if there are none, one for each zone of trusted ones.

    Anyone who may create a pod can label it as a client and forge its Envoy's pages: it must not vouch for the services of others.
    """
    near = tuple(client for client in objects.clients if client.namespace == namespace)
    return near or (pick_clients(objects.clients, None) if objects.trusted else ())


# -- what is returned --


def describe(entry: PortInspection, wanted: Wanted) -> JsonDict:
    """One entry of the result."""
    view = entry.view
    key = wanted.key or key_of(entry)
    static = static_verdict(key, entry.target, entry.declared, entry.membership, entry.client_views)
    sessions = wanted.sessions
    if wanted.scenario and not sessions:
        sessions = tuple(generated(key or DEFAULT_KEY, number) for number in range(1, SESSIONS + 1))
    views = [each.view for each in entry.client_views]
    prediction = predict(key, sessions, views, entry.backends) if key else Prediction(False, "no option and no rule names a key")
    return {
        "namespace": entry.target.namespace,
        "service": entry.target.service,
        "port": entry.target.port,
        "key": {"type": key.type, "name": key.name, "origin": key.origin} if key else None,
        "algorithm": view.cluster.lb_policy if view and view.cluster else None,
        "rule": rule_of(entry),
        "static_verdict": static.verdict,
        "why": static.why,
        "prediction": {"available": prediction.available, "reason": prediction.reason},
        "sessions": [{"id": session, "predicted": prediction.pods.get(session)} for session in sessions],
        "what_if": what_if(wanted.scenario, key, prediction, entry, sessions),
        "backends": [
            {"pod": backend.pod, "address": backend.address, "node": backend.node, "zone": backend.zone, "ready": backend.ready} for backend in entry.backends
        ],
        "proxies": [describe_proxy(each, key, entry.membership) for each in entry.client_views],
    }


def key_of(entry: PortInspection) -> Key | None:
    """From the first client's Envoy, else from the rules; None if neither has one."""
    in_force = key_in_force(entry.view)
    return in_force if in_force != DEFAULT_KEY else next(iter(entry.declared.keys), None)


def rule_of(entry: PortInspection) -> str | None:
    if entry.view is not None and entry.view.cluster is not None:
        return entry.view.cluster.rule
    return next(iter(entry.declared.rules), None)


def describe_proxy(entry: ClientView, key: Key | None, membership: Membership | None) -> JsonDict:
    view = entry.view
    missing = entry.error or missing_half(entry.client, view, key, membership)
    return {
        "client": str(entry.client),
        "hash_policy": [{"type": policy.type, "name": policy.name} for policy in view.policies()] if view else [],
        "lb_policy": view.cluster.lb_policy if view and view.cluster else None,
        "hosts": [{"address": host.address, "health": host.health_flags, "priority": host.priority} for host in view.hosts] if view else [],
        "in_sync": missing is None,
        "missing": missing,
    }


def missing_half(client: ClientPod, view: ProxyView | None, key: Key | None, membership: Membership | None) -> str | None:
    """None if both halves are present and the hosts are the ready pods."""
    if view is None:
        return f"no Envoy responds in pod {client}" + ("" if client.sidecar else "; it has no sidecar (istio-proxy)")
    if key is None:
        return "no option and no rule names a key"
    if not view.balances_by(key):
        return f"the Envoy of pod {client} {halves(view, key)}"
    if membership is None:
        return "there is no permission to read the service's endpoints"
    return missing_hosts(client, view, membership)


def missing_hosts(client: ClientPod, view: ProxyView, membership: Membership) -> str | None:
    """None if Envoy can select exactly the ready pods, by any address of each."""
    ready = pods_of(membership, [view])
    others = view.eligible() - ready_addresses(membership)
    lacking = pods_without(view, membership)
    if others or lacking:
        return f"the Envoy of pod {client} can select {len(ready - lacking)} of {len(ready)} ready pods, and {len(others)} others"
    return None if ready else "the service has no ready pod"


def causes_of(entry: PortInspection, wanted: Wanted, facts: Facts | None) -> list[JsonDict]:
    """The causes that are visible without requests; none without permission to read the endpoints."""
    key = wanted.key or key_of(entry)
    if facts is None or key is None or entry.membership is None:
        return []
    expected = wanted.key is not None or bool(entry.declared.keys)
    readable = [(each.client, each.view) for each in entry.client_views if not each.error]
    situation = situation_of_inspection(entry.target, key, facts, readable, entry.membership, expected)
    return [finding_result(finding) for finding in find_causes(situation)]


# -- the option what_if --


def check_scenario(cluster: Cluster, scenario: Scenario, inspections: Sequence[PortInspection]) -> None:
    """The pods and the node of the option must exist. Raises `CheckError` with `bad_option`."""
    backends = [backend for entry in inspections for backend in entry.backends]
    pods = {backend.pod for backend in backends}
    unknown = [pod for pod in scenario.remove_pods if pod not in pods]
    if unknown:
        listed = ", ".join(sorted(pods)[:10]) or "none"
        raise CheckError("bad_option", f"Option what_if.remove_pods: no inspected service has a pod {unknown[0]}; there are {listed}. Next: correct it.")
    nodes = {backend.node for backend in backends if backend.node}
    if scenario.drain_node and scenario.drain_node not in nodes and not node_exists(cluster, scenario.drain_node):
        listed = ", ".join(sorted(nodes)) or "none"
        raise CheckError(
            "bad_option", f"Option what_if.drain_node: there is no node {scenario.drain_node}; the inspected pods are on {listed}. Next: kubectl get nodes."
        )


def node_exists(cluster: Cluster, name: str) -> bool:
    """Whether the node exists; false without permission to read nodes."""
    try:
        return cluster.node(name) is not None
    except CheckError as error:
        if error.code != "forbidden":
            raise
        return False


def what_if(scenario: Scenario | None, key: Key | None, prediction: Prediction, entry: PortInspection, sessions: Sequence[str]) -> JsonDict | None:
    if scenario is None:
        return None
    view = entry.view
    if not prediction.available or key is None or view is None or view.cluster is None:
        return no_outcome(prediction.reason or "no Envoy was read")
    if len({host.weight for host in view.hosts if host.healthy}) > 1:
        return no_outcome("hosts have different weights, and the weight of a new pod is unknown")
    balancing = Balancing.of(view.cluster, view.in_order())
    return outcome(scenario, balancing, entry.backends, sessions, hashes_of(view, key, sessions))
