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

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_seen
from ansible_collections.meshops.istio.plugins.module_utils._cluster.api import Cluster
from ansible_collections.meshops.istio.plugins.module_utils._cluster.clients import pick_clients
from ansible_collections.meshops.istio.plugins.module_utils._cluster.connection import Connection
from ansible_collections.meshops.istio.plugins.module_utils._cluster.facts import read_facts
from ansible_collections.meshops.istio.plugins.module_utils._cluster.services import AT_ONCE, Objects, read_objects
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import wide_filter, wide_pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import Prediction, hashes_of, predict
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import DEFAULT_KEY, AdminDump, hashed_ports, key_in_force, parse_pages, view_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import choose_port, is_http, listener_of, ports_of
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import Asked, Name, Rules, name_of
from ansible_collections.meshops.istio.plugins.module_utils._membership import membership_of
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
from ansible_collections.meshops.istio.plugins.module_utils._options import Wanted, read_wanted
from ansible_collections.meshops.istio.plugins.module_utils._probe.session import PodSession
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import check_curl
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import generated
from ansible_collections.meshops.istio.plugins.module_utils._result import finding_result, halves
from ansible_collections.meshops.istio.plugins.module_utils._verdict.static import Seen, static_verdict
from ansible_collections.meshops.istio.plugins.module_utils._verdict.what_if import SESSIONS, Balancing, Plan, answer, no_answer

LOOK_TIMEOUT = 60


def gather(module: Any) -> tuple[list[JsonDict], list[str]]:
    """The services, and what could not be read."""
    wanted = read_wanted(module.params)
    connection = Connection(module)
    cluster = Cluster(connection.client)
    objects = read_objects(cluster, wanted.scope, wanted.choice)
    looks = look_at_all(connection.configuration, wanted.scope, objects)
    found = find(wanted.scope, objects, looks)
    if wanted.plan and found:
        check_plan(cluster, wanted.plan, found)
    unread = [*objects.unread, *(look.error for look in looks.values() if look.error)]
    facts = read_facts(cluster, [entry.target for entry in found], list(looks)) if found else None
    return [{**describe(entry, wanted), "findings": causes_of(entry, wanted, facts)} for entry in found], list(dict.fromkeys(unread))


def causes_of(entry: Found, wanted: Wanted, facts: Facts | None) -> list[JsonDict]:
    """What can be found without a request. Where the endpoints may not be read there is too little to say."""
    if facts is None or entry.membership is None:
        return []
    key = wanted.key or key_of(entry, next((seen.view for seen in entry.seen if seen.view), None))
    expected = wanted.key is not None or bool(entry.asked.keys)
    situation = situation_seen(entry.target, key, facts, [(seen.client, seen.view) for seen in entry.seen if not seen.error], entry.membership, expected)
    return [finding_result(finding) for finding in find_causes(situation)]


def check_plan(cluster: Cluster, plan: Plan, found: Sequence[Found]) -> None:
    """The pods and the node of the option must be there. Raises L(CheckError) with C(bad_option)."""
    backends = [backend for entry in found for backend in backends_of(entry)]
    pods = {backend.pod for backend in backends}
    unknown = [pod for pod in plan.remove_pods if pod not in pods]
    if unknown:
        listed = ", ".join(sorted(pods)[:10]) or "none"
        raise CheckError("bad_option", f"Option what_if.remove_pods: no service looked at has a pod {unknown[0]}; there are {listed}. Next: correct it.")
    nodes = {backend.node for backend in backends if backend.node}
    if plan.drain_node and plan.drain_node not in nodes and not node_exists(cluster, plan.drain_node):
        listed = ", ".join(sorted(nodes)) or "none"
        raise CheckError(
            "bad_option", f"Option what_if.drain_node: there is no node {plan.drain_node}; the pods looked at are on {listed}. Next: kubectl get nodes."
        )


def node_exists(cluster: Cluster, name: str) -> bool:
    """Whether there is such a node; not known, so no, where nodes may not be read."""
    try:
        return cluster.node(name) is not None
    except CheckError as error:
        if error.code != "forbidden":
            raise
        return False


def backends_of(entry: Found) -> tuple[Backend, ...]:
    return entry.membership.backends if entry.membership else ()


def describe(entry: Found, wanted: Wanted) -> JsonDict:
    """One entry of the result."""
    views = [seen.view for seen in entry.seen]
    first = next((view for view in views if view), None)
    key = wanted.key or key_of(entry, first)
    static = static_verdict(key, entry.target, entry.asked, entry.membership, entry.seen)
    sessions = wanted.sessions
    if wanted.plan and not sessions:
        sessions = tuple(generated(key, number) for number in range(1, SESSIONS + 1))
    prediction = predict(key, sessions, views, backends_of(entry))
    return {
        "namespace": entry.target.namespace,
        "service": entry.target.service,
        "port": entry.target.port,
        "key": {"type": key.type, "name": key.name, "origin": key.origin},
        "algorithm": first.cluster.lb_policy if first and first.cluster else None,
        "rule": rule_of(entry, first),
        "static_verdict": static.verdict,
        "why": static.why,
        "prediction": {"available": prediction.available, "reason": prediction.reason},
        "sessions": [{"id": session, "predicted": prediction.pods.get(session)} for session in sessions],
        "what_if": what_if(wanted.plan, key, prediction, first, entry, sessions),
        "backends": [
            {"pod": backend.pod, "address": backend.address, "node": backend.node, "zone": backend.zone, "ready": backend.ready}
            for backend in backends_of(entry)
        ],
        "proxies": [describe_proxy(seen, key, entry.membership) for seen in entry.seen],
    }


def key_of(entry: Found, first: ProxyView | None) -> Key:
    """By what the first client's Envoy has, else by what the objects ask for."""
    in_force = key_in_force(first)
    return entry.asked.keys[0] if in_force == DEFAULT_KEY and entry.asked.keys else in_force


def rule_of(entry: Found, first: ProxyView | None) -> str | None:
    if first is not None and first.cluster is not None:
        return first.cluster.rule
    return next(iter(entry.asked.rules), None)


def what_if(plan: Plan | None, key: Key, prediction: Prediction, view: ProxyView | None, entry: Found, sessions: Sequence[str]) -> JsonDict | None:
    if plan is None:
        return None
    if not prediction.available or view is None or view.cluster is None:
        return no_answer(prediction.reason or "no Envoy was read")
    if len({host.weight for host in view.hosts if host.healthy}) > 1:
        return no_answer("hosts have different weights, and that of a new pod is not known")
    balancing = Balancing.of(view.cluster, view.eligible())
    return answer(plan, balancing, backends_of(entry), sessions, hashes_of(view, key, sessions))


def describe_proxy(seen: Seen, key: Key, membership: Membership | None) -> JsonDict:
    view = seen.view
    missing = seen.error or what_is_missing(seen.client, view, key, membership)
    return {
        "client": str(seen.client),
        "hash_policy": [{"type": policy.type, "name": policy.name} for policy in view.route.hash_policies] if view and view.route else [],
        "lb_policy": view.cluster.lb_policy if view and view.cluster else None,
        "hosts": [{"address": host.address, "health": host.health_flags, "priority": host.priority} for host in view.hosts] if view else [],
        "in_sync": missing is None,
        "missing": missing,
    }


def what_is_missing(client: ClientPod, view: ProxyView | None, key: Key, membership: Membership | None) -> str | None:
    """None where both halves are there and the hosts are the ready pods."""
    if view is None:
        return f"no Envoy answers in pod {client}" + ("" if client.sidecar else "; it has no sidecar (istio-proxy)")
    if not view.balances_by(key):
        return f"the Envoy of pod {client} {halves(view, key)}"
    if membership is None:
        return "the endpoints of the service may not be read"
    ready = {backend.address for backend in membership.ready()}
    hosts = set(view.eligible())
    if hosts != ready:
        return f"the Envoy of pod {client} can choose {len(hosts & ready)} of {len(ready)} ready pods, and {len(hosts - ready)} others"
    if not ready:
        return "the service has no ready pod"
    return None


@dataclass(frozen=True)
class Found:
    """One port of a service with all that is known of it. C(membership) is None where the endpoints may not be read."""

    target: Target
    asked: Asked
    membership: Membership | None
    seen: tuple[Seen, ...]


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
    urls = wide_pages(spaces, [port["port"] for _service, port in ports], listeners)
    wanted = wide_filter(spaces)

    def look(client: ClientPod) -> Look:
        try:
            with PodSession(configuration, client, LOOK_TIMEOUT) as session:
                check_curl(session.curl_line, session.exec.where)
                pages = session.read(urls, wanted)
                session.end()
            return Look(parse_pages(pages))
        except CheckError as error:
            return Look(None, error.msg)

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return dict(zip(objects.clients, pool.map(look, objects.clients), strict=True))


def find(scope: Scope, objects: Objects, looks: Mapping[ClientPod, Look]) -> list[Found]:
    """The ports to show: of a named service those that are meant, else all that ask for affinity.

    Raises L(CheckError) with C(no_port) where the named service has no such port.
    """
    hashed: dict[Name, set[int]] = {}
    for look in looks.values():
        for name, ports in (hashed_ports(look.dump) if look.dump else {}).items():
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
    return [port for port in ports if is_http(port)] or ports


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
        return view_of(look.dump, target), None
    except CheckError as error:
        return None, error.msg


def _clients_of(namespace: str, clients: Sequence[ClientPod]) -> tuple[ClientPod, ...]:
    """Those of the service's namespace; where there is none, one for each zone from elsewhere."""
    near = tuple(client for client in clients if client.namespace == namespace)
    return near or pick_clients(clients, None)
