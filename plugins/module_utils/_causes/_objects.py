# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules that apply in a situation, and how one is put right. Pure.

What the rules mean is known in `_istio`.

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
# What the API server adds, and what says how somebody applied it.
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
    """Every DestinationRule that was read and names the service, oldest first, as Istio takes them."""
    return destination_rules(situation.facts.rules.get("DestinationRule", ()), situation.fqdn)


def consulted(situation: Situation, client: Client) -> list[str]:
    """The namespaces in which Istio looks for a DestinationRule, in this order."""
    return consulted_namespaces(situation.namespace_of(client), situation.target.namespace)


def applies(situation: Situation, client: Client, rule: JsonDict) -> bool:
    """Whether Istio would consider this rule for the client at all."""
    labels = situation.body_of(client)["metadata"].get("labels") or {}
    return applies_to(rule, situation.namespace_of(client), situation.target.namespace, labels)


def rule_in_force(situation: Situation, client: Client) -> JsonDict | None:
    """The DestinationRule that Envoy says it was given, if it could be read."""
    name = client.view.cluster.rule if client.view and client.view.cluster else None
    return next((rule for rule in situation.facts.rules.get("DestinationRule", ()) if named(rule) == name), None)


def blind_to_service(situation: Situation) -> Iterator[tuple[Client, ProxyView]]:
    """Clients whose Envoy has a cluster of this very service, reached over HTTP, that does not balance by the key."""
    for client, view in situation.blind():
        # A fixed source address is hashed for TCP too, where there are no routes.
        if view.cluster is None or not (speaks_http(view) or situation.key.type == "source_ip"):
            continue
        parts = cluster_parts(view.cluster.name)
        if parts is not None and parts[2] == situation.fqdn:
            yield client, view


def what_is_in_force(situation: Situation, client: Client, view: ProxyView) -> tuple[Item, ...]:
    """The rule that Envoy says it was given, and what came of it."""
    cluster = view.cluster
    return (
        (proxy_name(situation, client), "DestinationRule of the cluster", cluster.rule if cluster else None),
        (proxy_name(situation, client), "lb_policy of the cluster", cluster.lb_policy if cluster else None),
        (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
    )


def hash_on(key: Key, settings: JsonDict | None = None, *, nulls: bool = False) -> JsonDict:
    """loadBalancer settings that hash on the key, with the algorithm and the rest of given ones; with C(nulls) as a patch
    that takes away what would contradict."""
    old = settings or {}
    chosen = {name: value for name, value in (old.get("consistentHash") or {}).items() if name not in KEY_FIELDS}
    values: JsonDict = {"header": key.name, "cookie": {"name": key.name}, "query": key.name, "source_ip": True}
    own = dict(zip(("header", "cookie", "query", "source_ip"), KEY_FIELDS, strict=True))[key.type]
    chosen[own] = values[key.type]
    result = {name: value for name, value in old.items() if name not in ("simple", "consistentHash", "warmup", "warmupDurationSecs")}
    if nulls:
        gone = [name for name in KEY_FIELDS if name in (old.get("consistentHash") or {}) and name != own]
        chosen |= dict.fromkeys(gone)
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
    """What says that ztunnel takes a client's requests: the pod's own label, or else its namespace's. None for a client with
    a sidecar, which goes before."""
    namespace = situation.facts.namespaces.get(client.pod.namespace) or {"metadata": {}}
    places = ((f"Pod {client.pod}", situation.body_of(client)), (f"Namespace {client.pod.namespace}", namespace))
    found = _first_label(AMBIENT, places)
    return found if found and found[2] == "ambient" and not client.pod.sidecar else None


def waypoint_of(situation: Situation) -> Item | None:
    """What says that the service is behind a waypoint: its own label, or else its namespace's."""
    found = _first_label(WAYPOINT, waypoint_places(situation))
    return found if found and found[2] != "none" else None


def waypoint_places(situation: Situation) -> tuple[tuple[str, JsonDict], ...]:
    name = situation.target.namespace
    return ((situation.source, situation.service), (f"Namespace {name}", situation.facts.namespaces.get(name) or {"metadata": {}}))


def _first_label(name: str, places: Iterable[tuple[str, JsonDict]]) -> Item | None:
    for who, body in places:
        value = (body["metadata"].get("labels") or {}).get(name)
        if value:
            return who, f"metadata.labels['{name}']", value
    return None


def waypoint_without_route(situation: Situation) -> tuple[Item, ...]:
    """What shows that the service's waypoint is of an Istio that takes the hash from a VirtualService only, and there is none."""
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


# -- Envoy's clusters --


# -- fixes --


def as_yaml(*bodies: JsonDict) -> Fix:
    """Objects to be applied as they stand."""
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


def made_to_hash(rule: JsonDict, key: Key, port: int) -> Fix:
    """A patch after which a DestinationRule hashes on the key for a port, and is otherwise the same."""
    policy = policy_of(rule)
    entry = port_entry(policy, port)
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
    """Kind and name of what made a pod, its Deployment rather than the ReplicaSet; None for a pod made by hand."""
    owner = next((entry for entry in pod["metadata"].get("ownerReferences") or [] if entry.get("controller")), None)
    if owner is None:
        return None
    if owner["kind"] == "ReplicaSet":
        digest = (pod["metadata"].get("labels") or {}).get("pod-template-hash")
        return ("deployment", owner["name"].removesuffix(f"-{digest}")) if digest else None
    return owner["kind"].lower(), owner["name"]


def made_anew(situation: Situation, client: Client) -> Fix:
    """A client pod made anew as it is: its proxy connects to istiod again and builds everything from what it is sent."""
    pod = situation.body_of(client)
    return command(*remade(pod, None)) if pod["metadata"] else Fix("manual", f"Make pod {client.pod} anew.")


def remade(pod: JsonDict, change: JsonDict | None) -> list[str]:
    """Commands that change a pod and make it anew: most of a pod can't be changed while it runs."""
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
