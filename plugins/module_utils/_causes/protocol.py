# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Envoy does not treat the requests as HTTP, or does not select the host itself. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import (
    Client,
    Hit,
    Item,
    Section,
    Situation,
    evidence,
    policies_of,
    proxy_name,
    speaks_http,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import (
    as_yaml,
    hash_on,
    list_patch,
    manual,
    merge_patch,
    new_rule,
    only_for,
    scene,
    set_hash,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, route_in_force, settings_of, with_rule
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import hash_in_force
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import is_key
from ansible_collections.meshops.istio.plugins.module_utils._istio.ports import HTTP, TLS, protocol
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, name_of, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, ProxyView

SECTION = Section("Envoy does not treat the requests as HTTP, or does not select the host")
PROTOCOLS = "https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/"


def _opaque(situation: Situation) -> Iterator[tuple[Client, tuple[Item, ...]]]:
    """Clients whose Envoy has a cluster but no HTTP route for the port, with the evidence. An Envoy that hashes on the source
    address is left out, because Envoy hashes it for a TCP port too."""
    if situation.service["spec"].get("clusterIP") == "None":
        return
    port = situation.port
    for client, view in situation.not_hashing():
        if not speaks_http(view) and view.cluster is not None and protocol(port) not in ("", *HTTP):
            yield (
                client,
                (
                    (situation.source, "spec.ports[].name, appProtocol", f"{port.get('name', 'absent')}, {port.get('appProtocol', 'absent')}"),
                    (proxy_name(situation, client), "HTTP route", None),
                    (proxy_name(situation, client), f"cluster {view.cluster.name}", view.cluster.lb_policy),
                ),
            )


def _as_http(situation: Situation) -> Fix:
    """Declare the port as HTTP, if it was seen to be; a strategic merge patch selects the port by its number."""
    port = situation.target.port
    if not _answers_http(situation):
        return manual(
            f"If port {port} of {situation.source} is HTTP, set appProtocol: http for it. If it uses another protocol, its callers would fail; hash on the "
            "source address (useSourceIp) instead."
        )
    checked = f"Port {port} of {situation.source} responded to the check's HTTP requests; nothing but the protocol of this port changes."
    change = {"spec": {"ports": [{"port": port, "appProtocol": "http"}]}}
    otherwise = f"Set appProtocol: http for port {port} of {situation.source}."
    return merge_patch("Service", situation.service, change, checked=checked, otherwise=otherwise, how="strategic")


def _answers_http(situation: Situation) -> bool:
    return situation.window is not None and any(entry.tally.answered for entry in situation.window.client_windows)


@SECTION.cause(
    "C30",
    "Envoy treats the Service's port as TCP, where there are no headers to hash",
    symptom="sessions move; responses have the application's own server header instead of envoy",
    evidence="the port's name or appProtocol declares a protocol other than HTTP; Envoy has no HTTP route for it",
    fix="name the port http or http-…, or set appProtocol: http",
    reference=PROTOCOLS,
)
def not_http(situation: Situation) -> Iterator[Hit]:
    if protocol(situation.port) in TLS:
        return
    for _client, items in _opaque(situation):
        yield Hit(evidence(*items), _as_http(situation))


@SECTION.cause(
    "C31",
    "The Service's port is declared as TLS, which Envoy forwards without decrypting",
    symptom="sessions move",
    evidence="the port's name or appProtocol is https or tls; Envoy has no HTTP route for it",
    fix="use plain HTTP inside the mesh, which encrypts it (mutual TLS), and name the port http; or terminate TLS at a gateway",
    reference=PROTOCOLS,
)
def tls(situation: Situation) -> Iterator[Hit]:
    if protocol(situation.port) not in TLS:
        return
    answered = _answers_http(situation)
    for _client, items in _opaque(situation):
        if answered:
            yield Hit(evidence(*items, (situation.source, "responds to plain HTTP on this port", True)), _as_http(situation))
        else:
            yield Hit(evidence(*items), manual(f"Serve plain HTTP on port {situation.target.port} of {situation.source} and name the port http."))


@SECTION.cause(
    "C32",
    "The Service is headless: the client selects the pod by DNS, and Envoy follows",
    symptom="sessions move, or a client stays on one pod until DNS resolves to another",
    evidence="spec.clusterIP is None, and Envoy's cluster is of type ORIGINAL_DST",
    fix="create a second Service with a cluster IP and a rule, and call that one; the headless Service stays for its other callers",
    reference="https://github.com/istio/istio/issues/50643",
)
def headless(situation: Situation) -> Iterator[Hit]:
    spec = situation.service["spec"]
    if spec.get("clusterIP") != "None":
        return
    known = [(client, view.cluster) for client, view in situation.readable() if view.cluster is not None]
    if known and all(cluster.type == "EDS" for _client, cluster in known):
        return
    items: list[Item] = [(situation.source, "spec.clusterIP", "None")]
    items += [(proxy_name(situation, client), f"type of cluster {cluster.name}", cluster.type) for client, cluster in known]
    yield Hit(evidence(*items), _with_address(situation))


def _with_address(situation: Situation) -> Fix:
    """A second Service with an address, and its rule; the headless one stays, as a StatefulSet and other callers need it."""
    meta, spec, name = situation.service["metadata"], situation.service["spec"], f"{situation.target.service}-sticky"
    kept = {field: spec[field] for field in ("selector", "ports", "publishNotReadyAddresses") if field in spec}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": situation.target.namespace}, "spec": kept}
    host = situation.fqdn.replace(situation.target.service, name, 1)
    rule = new_rule("DestinationRule", name, situation.target.namespace, {"host": host, "trafficPolicy": {"loadBalancer": hash_on(situation.key)}})
    text = f"Create a Service with a cluster IP for the pods of {situation.source}, and a DestinationRule for it, and call that Service"
    taken = {name_of(each) for each in situation.facts.rules.get("DestinationRule", ())}
    if (
        not spec.get("selector")
        or situation.unread("DestinationRule")
        or not is_key(situation.key)
        or (situation.target.namespace, name) in taken
        or (meta.get("namespace"), name) in situation.facts.services
    ):
        return manual(f"{text}. The headless Service stays for its other callers.")
    checked = f"Both objects are new, as far as could be read; {situation.source} and its callers stay as they are. Callers must use the name {name}."
    return as_yaml(body, rule, checked=checked, otherwise=f"{text}.")


@SECTION.cause(
    "C35",
    "The rule sets simple: PASSTHROUGH, and Envoy does not select a host at all",
    symptom="sessions move",
    evidence="loadBalancer.simple of the DestinationRule in force is PASSTHROUGH; Envoy's cluster is of type ORIGINAL_DST",
    fix="use consistentHash instead",
    reference="https://istio.io/latest/docs/reference/config/networking/destination-rule/#LoadBalancerSettings-SimpleLB",
)
def passthrough(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        if view.cluster is None or settings_of(situation, rule).get("simple") != "PASSTHROUGH":
            continue
        items = (
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer.simple", "PASSTHROUGH"),
            (proxy_name(situation, client), f"type of cluster {view.cluster.name}", view.cluster.type),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        )
        yield Hit(evidence(*items), set_hash(situation, client, view))


@SECTION.cause(
    "C34",
    "The route leads to a ServiceEntry whose resolution gives Envoy no pods to select from",
    symptom="sessions move; the rule on the ServiceEntry's host has no effect",
    evidence="the cluster of Envoy's route belongs to a ServiceEntry, whose resolution is NONE or DNS_ROUND_ROBIN, or DNS for the Service's single address",
    fix="route to the Service itself, or use a ServiceEntry with resolution STATIC and the pods' addresses as endpoints",
    reference="https://istio.io/latest/docs/reference/config/networking/service-entry/#ServiceEntry-Resolution",
)
def unresolved(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.not_hashing():
        entry, route = entry_led_to(situation, view), route_in_force(situation, client)
        if entry is None or view.route is None:
            continue
        addresses = [endpoint.get("address") for endpoint in spec_of(entry).get("endpoints") or []]
        items: list[Item] = [
            (label("ServiceEntry", entry), "spec.resolution", spec_of(entry).get("resolution") or "NONE"),
            (label("ServiceEntry", entry), "spec.endpoints[].address", addresses),
            (proxy_name(situation, client), "cluster of the route", view.route.clusters[0][0]),
            (proxy_name(situation, client), "VirtualService of the route", view.route.rule),
        ]
        fix = manual(f"Send requests to {situation.fqdn} instead of {view.route.clusters[0][0].rpartition('|')[2]}.")
        if route is not None:
            fix = _to_the_service(situation, client, view, route, spec_of(entry)["hosts"])
        yield Hit(evidence(*items), fix, situation.severity)


def entry_led_to(situation: Situation, view: ProxyView) -> JsonDict | None:
    """The ServiceEntry that the route leads to, if Envoy cannot select a pod there."""
    parts = cluster_parts(view.route.clusters[0][0]) if view.route and view.route.clusters else None
    if parts is None or parts[2] == situation.fqdn:
        return None
    entries = [entry for entry in situation.facts.rules.get("ServiceEntry", ()) if parts[2] in (spec_of(entry).get("hosts") or [])]
    return next((entry for entry in entries if _without_pods(situation, entry)), None)


def _without_pods(situation: Situation, entry: JsonDict) -> bool:
    resolution = spec_of(entry).get("resolution") or "NONE"
    addresses = [endpoint.get("address", "") for endpoint in spec_of(entry).get("endpoints") or []] or spec_of(entry).get("hosts") or []
    names = (situation.fqdn, situation.fqdn.partition(".svc.")[0], situation.fqdn.partition(".svc.")[0] + ".svc")
    own = all(address in names for address in addresses) and situation.service["spec"].get("clusterIP") != "None"
    return resolution in ("NONE", "DNS_ROUND_ROBIN") or (resolution == "DNS" and own)


def _to_the_service(situation: Situation, client: Client, view: ProxyView, route: JsonDict, hosts: list[str]) -> Fix:
    """The Service as destination in place of a ServiceEntry's hosts, in a VirtualService that is for the Service only."""
    own = {"host": situation.fqdn, "port": {"number": situation.target.port}}
    http = spec_of(route).get("http") or []
    places = [
        f"/spec/http/{number}/route/{position}/destination"
        for number, each in enumerate(http)
        for position, entry in enumerate(each.get("route") or [])
        if (entry.get("destination") or {}).get("host") in hosts
    ]
    otherwise = f"In {label('VirtualService', route)}, name {situation.fqdn} as the destination instead of {', '.join(hosts)}."
    stage = scene(situation, client, replace(view, cluster=None, route=None))
    policy = hash_in_force(stage.rules, stage.to, stage.caller)
    whole = len(http) == 1 and len(places) == len(http[0].get("route") or []) == 1
    if not whole or stage.unread or not only_for(route, situation.fqdn) or policy is None or not policy.matches(situation.key):
        return manual(f"{otherwise} Look at its other hosts and destinations first: requests leave the ServiceEntry's endpoints.")
    checked = f"The VirtualService is for {situation.fqdn} only and has this one route; the rules in force for pod {client.pod} hash on {situation.key} there."
    return list_patch("VirtualService", route, [{"op": "replace", "path": places[0], "value": own}], checked=checked, otherwise=otherwise)
