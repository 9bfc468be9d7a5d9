# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules that apply in a situation, and the fixes for them. Pure.

`_istio` knows what the rules mean.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator

from ansible.module_utils.common.yaml import yaml_dump

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Item, Situation, policies_of, proxy_name, speaks_http
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    applies_to,
    balancer,
    cluster_parts,
    consulted_namespaces,
    destination_rules,
    destinations,
    named,
    policy_of,
    port_entry,
    virtual_services,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict, Key, ProxyView

KEY_FIELDS = ("httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp")
# The metadata that an author writes; the API server adds the rest.
OWN_METADATA = ("name", "namespace", "labels", "annotations")
# Labels of ambient mode, and the first Istio whose waypoints hash without a VirtualService.
AMBIENT, WAYPOINT = "istio.io/dataplane-mode", "istio.io/use-waypoint"
HASHING_WAYPOINTS = (1, 31, 0)
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


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


def hash_on(key: Key, settings: JsonDict | None = None, *, nulls: bool = False) -> JsonDict:
    """The given loadBalancer settings, changed to hash on the key; with `nulls`, as a patch that removes what contradicts it."""
    old = settings or {}
    chosen = {name: value for name, value in (old.get("consistentHash") or {}).items() if name not in KEY_FIELDS}
    values: JsonDict = {"header": key.name, "cookie": {"name": key.name}, "query": key.name, "source_ip": True}
    own = dict(zip(("header", "cookie", "query", "source_ip"), KEY_FIELDS, strict=True))[key.type]
    chosen[own] = values[key.type]
    result = {name: value for name, value in old.items() if name not in ("simple", "consistentHash", "warmup", "warmupDurationSecs")}
    if nulls:
        removed = [name for name in KEY_FIELDS if name in (old.get("consistentHash") or {}) and name != own]
        chosen |= dict.fromkeys(removed)
        result |= dict.fromkeys(name for name in ("simple", "warmup", "warmupDurationSecs") if name in old)
    return result | {"consistentHash": chosen}


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
    if waypoint is None or version is None or version >= HASHING_WAYPOINTS or leads:
        return ()
    return waypoint, ("istiod", "version", text), (situation.source, "VirtualServices that lead to it", None)


def _leads_to(situation: Situation, route: JsonDict, destination: JsonDict) -> bool:
    return covers(destination.get("host", ""), route["metadata"]["namespace"], situation.fqdn)


def version_of(text: str | None) -> tuple[int, int, int] | None:
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text or "")
    return (int(match.group(1)), int(match.group(2)), int(match.group(3))) if match else None


# -- fixes --


def as_yaml(*bodies: JsonDict) -> Fix:
    """Objects that can be applied as printed."""
    return Fix("yaml", "---\n".join(str(yaml_dump(clean(body), sort_keys=False, width=160)) for body in bodies))


def clean(body: JsonDict) -> JsonDict:
    """An object as its author would write it."""
    meta = {name: body["metadata"][name] for name in OWN_METADATA if body["metadata"].get(name)}
    if "annotations" in meta:
        meta["annotations"] = {name: value for name, value in meta["annotations"].items() if name != LAST_APPLIED}
        if not meta["annotations"]:
            del meta["annotations"]
    return {"apiVersion": body.get("apiVersion"), "kind": body.get("kind"), "metadata": meta, "spec": body.get("spec")}


def new_rule(kind: str, name: str, namespace: str, spec: JsonDict) -> JsonDict:
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def patch(kind: str, body: JsonDict, change: JsonDict | list[JsonDict], how: str = "merge") -> Fix:
    """A command that changes part of an object and leaves the rest."""
    return Fix("command", " ".join((*_on(kind, body, "patch"), f"--type={how}", "-p", shlex.quote(json.dumps(change)))))


def set_hash(situation: Situation, rule: JsonDict) -> Fix:
    """A patch that makes a DestinationRule hash on the key for the target's port, and changes nothing else."""
    policy, key = policy_of(rule), situation.key
    entry = port_entry(policy, situation.target.port)
    if entry is None:
        change: JsonDict = {"loadBalancer": hash_on(key, policy.get("loadBalancer"), nulls=True)}
    else:
        entries = policy["portLevelSettings"]
        change = {"portLevelSettings": [{**each, "loadBalancer": hash_on(key, each.get("loadBalancer"))} if each is entry else each for each in entries]}
    return patch("DestinationRule", rule, {"spec": {"trafficPolicy": change}})


def command(*lines: str) -> Fix:
    return Fix("command", "\n".join(lines))


def _on(kind: str, body: JsonDict, verb: str) -> Iterable[str]:
    return ("kubectl", "-n", body["metadata"]["namespace"], verb, kind.lower(), body["metadata"]["name"])


def delete(kind: str, body: JsonDict) -> str:
    return " ".join(_on(kind, body, "delete"))


def workload_of(pod: JsonDict) -> tuple[str, str] | None:
    """Kind and name of a pod's workload, its Deployment rather than the ReplicaSet; None for a pod without a controller."""
    owner = next((entry for entry in pod["metadata"].get("ownerReferences") or [] if entry.get("controller")), None)
    if owner is None:
        return None
    if owner["kind"] == "ReplicaSet":
        digest = (pod["metadata"].get("labels") or {}).get("pod-template-hash")
        return ("deployment", owner["name"].removesuffix(f"-{digest}")) if digest else None
    return owner["kind"].lower(), owner["name"]


def recreate_client(situation: Situation, client: Client) -> Fix:
    """Recreate the client pod unchanged: its proxy reconnects to istiod and receives its whole configuration."""
    pod = situation.body_of(client)
    return command(*recreate_pod(pod, None)) if pod["metadata"] else Fix("manual", f"Recreate pod {client.pod}.")


def recreate_pod(pod: JsonDict, change: JsonDict | None) -> list[str]:
    """Commands that change and recreate a pod: most of a pod cannot be changed while it runs."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    workload = workload_of(pod)
    if workload is None:
        altered = f" | kubectl patch --local -f - --type=strategic -p {shlex.quote(json.dumps(change))} -o yaml" if change else ""
        return [
            f"kubectl -n {namespace} get pod {name} -o yaml{altered} | kubectl replace --force -f -",
            f"kubectl -n {namespace} wait --for=condition=Ready pod/{name} --timeout=120s",
        ]
    kind, owner = workload
    restart = f"kubectl -n {namespace} rollout restart {kind}/{owner}"
    if change:
        restart = f"kubectl -n {namespace} patch {kind} {owner} --type=strategic -p {shlex.quote(json.dumps({'spec': {'template': change}}))}"
    return [restart, f"kubectl -n {namespace} rollout status {kind}/{owner} --timeout=180s"]
