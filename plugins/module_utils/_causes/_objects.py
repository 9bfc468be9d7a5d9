# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The objects of a situation: the rules that apply, ambient mode, workloads. Pure.

`_istio` knows what the rules mean.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Item, Situation, policies_of, proxy_name, speaks_http
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import is_dns_name
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    applies_to,
    balancer,
    cluster_parts,
    consulted_namespaces,
    destination_rules,
    destinations,
    named,
    policy_of,
    virtual_services,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import JsonDict, ProxyView

# Labels of ambient mode, and the first Istio whose waypoints hash without a VirtualService.
AMBIENT, WAYPOINT = "istio.io/dataplane-mode", "istio.io/use-waypoint"
HASHING_WAYPOINTS = (1, 31, 0)
# The owners that kubectl can restart.
WORKLOADS = {"Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}


# -- names --


def label(kind: str, body: JsonDict) -> str:
    return f"{kind} {named(body)}"


# -- DestinationRules --


def rules_of(situation: Situation) -> list[JsonDict]:
    """The DestinationRules that name the service, oldest first, as Istio orders them."""
    return destination_rules(situation.facts.rules.get("DestinationRule", ()), situation.fqdn)


def consulted(situation: Situation, client: Client) -> list[str]:
    """The namespaces that Istio searches for a DestinationRule, in this order."""
    return consulted_namespaces(situation.namespace_of(client), situation.target.namespace, situation.facts.root_namespace)


def applies(situation: Situation, client: Client, rule: JsonDict) -> bool:
    """Whether the rule is a candidate for this client."""
    facts = situation.facts
    return applies_to(rule, situation.namespace_of(client), situation.target.namespace, situation.labels_of(client), facts.root_namespace)


def rule_in_force(situation: Situation, client: Client) -> JsonDict | None:
    """The DestinationRule that Envoy's cluster names, if it could be read."""
    name = client.view.cluster.rule if client.view and client.view.cluster else None
    return next((rule for rule in situation.facts.rules.get("DestinationRule", ()) if named(rule) == name), None)


def with_rule(situation: Situation, clients: Iterable[tuple[Client, ProxyView]]) -> Iterator[tuple[Client, ProxyView, JsonDict]]:
    """Those of the clients whose DestinationRule in force could be read, each with it."""
    for client, view in clients:
        rule = rule_in_force(situation, client)
        if rule is not None:
            yield client, view, rule


def settings_of(situation: Situation, rule: JsonDict) -> JsonDict:
    """The loadBalancer settings of a DestinationRule for the target's port."""
    return balancer(policy_of(rule), situation.target.port)


def not_hashing_for_service(situation: Situation) -> Iterator[tuple[Client, ProxyView]]:
    """Clients whose Envoy has a cluster of this service, not of another host, for HTTP, that does not balance by the key."""
    for client, view in situation.not_hashing():
        # The source address is hashed for TCP too, where there are no routes.
        if view.cluster is None or not (speaks_http(view) or situation.key.type == "source_ip"):
            continue
        parts = cluster_parts(view.cluster.name)
        if parts is not None and parts[2] == situation.fqdn:
            yield client, view


def items_in_force(situation: Situation, client: Client, view: ProxyView) -> tuple[Item, ...]:
    """Evidence of the rule that Envoy's cluster names, and of its effect."""
    cluster = view.cluster
    return (
        (proxy_name(situation, client), "DestinationRule of the cluster", cluster.rule if cluster else None),
        (proxy_name(situation, client), "lb_policy of the cluster", cluster.lb_policy if cluster else None),
        (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
    )


# -- VirtualServices --


def routes_of(situation: Situation) -> list[JsonDict]:
    """The VirtualServices whose hosts name the service, oldest first."""
    return virtual_services(situation.facts.rules.get("VirtualService", ()), situation.fqdn)


def route_in_force(situation: Situation, client: Client) -> JsonDict | None:
    name = client.view.route.rule if client.view and client.view.route else None
    return next((rule for rule in situation.facts.rules.get("VirtualService", ()) if named(rule) == name), None)


# -- ambient mode --


def ambient_by(situation: Situation, client: Client) -> Item | None:
    """The label that puts a client into ambient mode: the pod's own, or else its namespace's. None for a client with a
    sidecar, which takes precedence."""
    namespace = situation.facts.namespaces.get(client.pod.namespace) or {"metadata": {}}
    places = ((f"Pod {client.pod}", situation.body_of(client)), (f"Namespace {client.pod.namespace}", namespace))
    item = _first_label(AMBIENT, places)
    return item if item and item[2] == "ambient" and not client.pod.sidecar else None


def waypoint_of(situation: Situation) -> Item | None:
    """The label that puts the service behind a waypoint: its own, or else its namespace's."""
    item = _first_label(WAYPOINT, waypoint_places(situation))
    return item if item and item[2] != "none" else None


def waypoint_is_known(situation: Situation) -> bool:
    """Whether the label is known: without one of the service, that of the namespace counts, which must have been read."""
    return situation.target.namespace in situation.facts.namespaces or _first_label(WAYPOINT, waypoint_places(situation)) is not None


def waypoint_places(situation: Situation) -> tuple[tuple[str, JsonDict], ...]:
    name = situation.target.namespace
    return ((situation.source, situation.service), (f"Namespace {name}", situation.facts.namespaces.get(name) or {"metadata": {}}))


def _first_label(name: str, places: Iterable[tuple[str, JsonDict]]) -> Item | None:
    for source, body in places:
        value = (body["metadata"].get("labels") or {}).get(name)
        if value:
            return source, f"metadata.labels['{name}']", value
    return None


def waypoint_without_route(situation: Situation) -> tuple[Item, ...]:
    """Evidence that the service's waypoint hashes only by a VirtualService, and that there is none; otherwise empty."""
    waypoint, text = waypoint_of(situation), situation.facts.versions.get("istiod")
    version = version_of(text)
    leads = [route for route in routes_of(situation) if any(_leads_to(situation, route, destination) for destination in destinations(route))]
    if waypoint is None or version is None or version >= HASHING_WAYPOINTS or leads or situation.unread("VirtualService"):
        return ()
    return waypoint, ("istiod", "version", text), (situation.source, "VirtualServices that lead to it", None)


def _leads_to(situation: Situation, route: JsonDict, destination: JsonDict) -> bool:
    return covers(destination.get("host", ""), route["metadata"]["namespace"], situation.fqdn)


def version_of(text: str | None) -> tuple[int, int, int] | None:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text or "")
    return (int(match.group(1)), int(match.group(2)), int(match.group(3))) if match else None


# -- workloads --


def workload_of(pod: JsonDict) -> tuple[str, str] | None:
    """Kind and name of a pod's workload, its Deployment rather than the ReplicaSet; None for any other owner, or for an owner
    that no workload can be: the creator of a pod can write anything as its owner."""
    owner = next((entry for entry in pod["metadata"].get("ownerReferences") or [] if entry.get("controller")), None)
    if owner is None:
        return None
    kind, name = WORKLOADS.get(owner["kind"]), owner["name"]
    if owner["kind"] == "ReplicaSet":
        digest = (pod["metadata"].get("labels") or {}).get("pod-template-hash")
        kind, name = ("deployment", name.removesuffix(f"-{digest}")) if digest else (None, name)
    return (kind, name) if kind and is_dns_name(name) else None


def workload_text(client: Client, pod: JsonDict) -> str:
    """The object whose pod template makes a client pod."""
    workload = workload_of(pod)
    return f"{workload[0]} {client.pod.namespace}/{workload[1]}" if workload else f"pod {client.pod}"
