# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client's proxy is not in the path of the requests. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    WAYPOINT,
    ambient_by,
    as_yaml,
    command,
    label,
    new_rule,
    patch,
    recreate_pod,
    waypoint_of,
    waypoint_places,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import exported, selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import on_mesh, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict

SECTION = Section("The client's proxy is not in the path")
SIDECAR, SIDECAR_UID = "istio-proxy", 1337
CAPTURE = "traffic.sidecar.istio.io/"
INJECT = "sidecar.istio.io/inject"
EXPORT = "networking.istio.io/exportTo"


def _own_proxies(situation: Situation) -> Iterator[Client]:
    """Clients whose own sidecar balances. Through a gateway, the gateway's pods balance instead."""
    if not situation.target.via:
        yield from situation.clients


def _counter_items(situation: Situation, client: Client) -> tuple[Item, ...]:
    """Envoy's counters, which show that requests bypassed it; nothing if no requests were sent."""
    counted = client.counted()
    if situation.window is None or counted is None:
        return ()
    answered = sum(entry.tally.answered for entry in situation.parts_of(client))
    return ((proxy_name(situation, client), "requests counted, of those answered", f"{counted} of {answered}"),)


@SECTION.cause(
    "C06",
    "The client is in ambient mode, where only a waypoint processes HTTP, and the service has no waypoint",
    symptom="sessions move with each connection",
    evidence="the client has no sidecar but the label istio.io/dataplane-mode: ambient; neither the Service nor its namespace has istio.io/use-waypoint",
    fix="deploy a waypoint for the service",
    reference="https://istio.io/latest/docs/ambient/usage/waypoint/",
    synthetic="the labels in Istio's documentation of ambient mode; the lab has no ztunnel",
)
def no_waypoint(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        ambient = ambient_by(situation, client)
        if ambient is None or waypoint_of(situation):
            continue
        containers = situation.body_of(client)["spec"].get("containers") or []
        items: list[Item] = [ambient, (f"Pod {client.pod}", "spec.containers", [entry["name"] for entry in containers] or [client.pod.container])]
        items += [
            (source, f"metadata.labels['{WAYPOINT}']", (body["metadata"].get("labels") or {}).get(WAYPOINT)) for source, body in waypoint_places(situation)
        ]
        namespace = situation.target.namespace
        fix = command(
            f"istioctl waypoint apply -n {namespace} --for service --wait",
            f"kubectl -n {namespace} label service {situation.target.service} {WAYPOINT}=waypoint --overwrite",
        )
        yield Hit(evidence(*items), fix, situation.severity)


@SECTION.cause(
    "C01",
    "The client pod has no sidecar, and no rule of the mesh applies to its requests",
    symptom="sessions move across all pods, from this client only",
    evidence="neither the pod's containers nor its init containers include istio-proxy",
    fix="label the namespace (istio-injection or istio.io/rev) or correct the pod's own label or annotation, then recreate the pod",
    reference="https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/",
)
def no_sidecar(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        if client.pod.sidecar or client.view is not None or ambient_by(situation, client):
            continue
        pod, spec = situation.body_of(client), situation.body_of(client)["spec"]
        meta = pod["metadata"]
        namespace = situation.facts.namespaces.get(client.pod.namespace)
        labels = (namespace or {"metadata": {}})["metadata"].get("labels") or {}
        names = [entry["name"] for entry in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]]
        refused = [place for place in ("labels", "annotations") if (meta.get(place) or {}).get(INJECT) == "false"]
        items: list[Item] = [(f"Pod {client.pod}", "spec.containers, spec.initContainers", names or [client.pod.container])]
        if namespace:
            items.append((f"Namespace {client.pod.namespace}", "metadata.labels", _injection(labels)))
        items += [(f"Pod {client.pod}", f"metadata.{place}['{INJECT}']", "false") for place in refused]
        items += [(f"Pod {client.pod}", "spec.hostNetwork", True)] if spec.get("hostNetwork") else []
        yield Hit(evidence(*items), _inject(client, pod, labels, refused))


def _injection(labels: JsonDict) -> str:
    present = [f"{name}={labels[name]}" for name in ("istio-injection", "istio.io/rev") if name in labels]
    return ", ".join(present) or "neither istio-injection nor istio.io/rev"


def _inject(client: Client, pod: JsonDict, labels: JsonDict, refused: list[str]) -> Fix:
    if pod["spec"].get("hostNetwork"):
        return Fix("manual", f"Send the requests from another pod: pods on the host network, such as {client.pod}, get no sidecar.")
    lines = []
    if labels.get("istio-injection") != "enabled" and "istio.io/rev" not in labels:
        lines.append(f"kubectl label namespace {client.pod.namespace} istio-injection=enabled --overwrite")
    verbs = {"labels": "label", "annotations": "annotate"}
    lines += [f"kubectl -n {client.pod.namespace} {verbs[place]} pod {client.pod.pod} {INJECT}-" for place in refused]
    return command(*lines, *(recreate_pod(pod, None) if pod["metadata"] else []))


@SECTION.cause(
    "C07",
    "The client's sidecar was not ready: it had not received its configuration yet",
    symptom="requests fail or sessions move for a while after the client pod starts",
    evidence="the container istio-proxy is not ready, and its Envoy did not respond or has neither a route nor a cluster for the service",
    fix="wait until the pod is ready; a native sidecar or holdApplicationUntilProxyStarts starts the proxy before the application",
    reference="https://istio.io/latest/docs/ops/common-problems/injection/",
)
def not_ready(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        view, status = client.view, situation.body_of(client).get("status") or {}
        containers = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
        proxy = next((entry for entry in containers if entry["name"] == SIDECAR), None)
        if proxy is None or proxy.get("ready") or (view is not None and (view.route or view.cluster)):
            continue
        state = next(iter(proxy.get("state") or {}), "unknown")
        items = (
            (f"Pod {client.pod}", f"status.containerStatuses[{SIDECAR}].ready", False),
            (f"Pod {client.pod}", f"status.containerStatuses[{SIDECAR}].state", state),
            (proxy_name(situation, client), "route and cluster of the service", "no response" if view is None else None),
        )
        wait = f"kubectl -n {client.pod.namespace} wait --for=condition=Ready pod/{client.pod.pod} --timeout=180s"
        logs = f"kubectl -n {client.pod.namespace} logs {client.pod.pod} -c {SIDECAR} --tail=20"
        yield Hit(evidence(*items), command(f"{wait} || {{ {logs}; false; }}"))


@SECTION.cause(
    "C02",
    "The client runs with the sidecar's user ID 1337, and its requests are not redirected to the sidecar",
    symptom="sessions move; the sidecar counts none of the requests",
    evidence="securityContext.runAsUser of the client's container (or pod) is 1337, the user ID that Istio's redirection skips",
    fix="run the application with another user ID",
    reference="https://istio.io/latest/docs/ops/deployment/application-requirements/",
)
def runs_as_the_sidecar(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        spec = situation.body_of(client)["spec"]
        container: JsonDict = next((entry for entry in spec.get("containers") or [] if entry["name"] == client.pod.container), {})
        own = (container.get("securityContext") or {}).get("runAsUser")
        whole = (spec.get("securityContext") or {}).get("runAsUser")
        if not client.pod.sidecar or (whole if own is None else own) != SIDECAR_UID:
            continue
        place = "spec.securityContext.runAsUser" if own is None else f"spec.containers[{client.pod.container}].securityContext.runAsUser"
        change = {"spec": {"containers": [{"name": client.pod.container, "securityContext": {"runAsUser": 1000}}]}}
        items = ((f"Pod {client.pod}", place, str(SIDECAR_UID)), *_counter_items(situation, client))
        yield Hit(evidence(*items), command(*recreate_pod(situation.body_of(client), change)))


@SECTION.cause(
    "C03",
    "An annotation of the client pod excludes requests to this service from redirection to the sidecar",
    symptom="sessions move; the sidecar counts none of the requests",
    evidence="the pod's annotations include excludeOutboundPorts, excludeOutboundIPRanges, includeOutboundIPRanges or interceptionMode: NONE",
    fix="remove the annotation and recreate the pod",
    reference="https://istio.io/latest/docs/reference/config/annotations/",
)
def not_captured(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        pod = situation.body_of(client)
        annotations = pod["metadata"].get("annotations") or {}
        excluding = [name for name, value in annotations.items() if client.pod.sidecar and _excludes(situation, name, str(value))]
        if not excluding:
            continue
        items = [(f"Pod {client.pod}", f"metadata.annotations['{name}']", annotations[name]) for name in excluding]
        items.append((situation.source, "spec.clusterIP:port", f"{situation.service['spec'].get('clusterIP')}:{situation.target.port}"))
        change = {"metadata": {"annotations": dict.fromkeys(excluding)}}
        yield Hit(evidence(*items, *_counter_items(situation, client)), command(*recreate_pod(pod, change)))


def _excludes(situation: Situation, name: str, value: str) -> bool:
    if name == "sidecar.istio.io/interceptionMode":
        return value == "NONE"
    words = [word.strip() for word in value.split(",") if word.strip()]
    port, address = str(situation.target.port), situation.service["spec"].get("clusterIP") or ""
    ways = {
        f"{CAPTURE}excludeOutboundPorts": port in words,
        f"{CAPTURE}excludeOutboundIPRanges": _within(address, words),
        f"{CAPTURE}includeOutboundIPRanges": not _within(address, words),
    }
    return ways.get(name, False)


def _within(address: str, ranges: list[str]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
        return any(word == "*" or ip in ipaddress.ip_network(word, strict=False) for word in ranges)
    except ValueError:
        return "*" in ranges


@SECTION.cause(
    "C04",
    "Envoy has no route for the address or host name of the requests, and forwards them without load balancing",
    symptom="sessions move although the service's rule, route and cluster are correct",
    evidence="the request's address is the Service's or a pod's IP, and its Host header is neither the service nor a host of a VirtualService on the mesh",
    fix="call the service by its name, or add a VirtualService for that host",
    reference="https://istio.io/latest/docs/ops/configuration/traffic-management/traffic-routing/",
)
def no_such_host(situation: Situation) -> Iterator[Hit]:
    via = situation.target.via
    if via is None or via.service or not any(client.pod.sidecar for client in situation.clients):
        return
    addresses = {backend.address.rpartition(":")[0] for backend in situation.membership.backends}
    if via.address not in {*addresses, *(situation.service["spec"].get("clusterIPs") or [])} or _known_host(situation, via.host):
        return
    rule = new_rule(
        "VirtualService",
        f"{situation.target.service}-by-host",
        situation.target.namespace,
        {"hosts": [via.host], "http": [{"route": [{"destination": {"host": situation.fqdn, "port": {"number": situation.target.port}}}]}]},
    )
    known = [host for route in situation.facts.rules.get("VirtualService", ()) if on_mesh(route) for host in spec_of(route).get("hosts") or []]
    yield Hit(
        evidence(
            ("option via", "address, of " + situation.source, via.address),
            ("option via", "host", via.host),
            ("VirtualServices on the mesh", "spec.hosts", known),
        ),
        as_yaml(rule),
    )


def _known_host(situation: Situation, host: str) -> bool:
    name = host.partition(":")[0]
    own = situation.fqdn.split(".")
    if name in {".".join(own[:length]) for length in (1, 2, 3, len(own))}:
        return True
    rules = [rule for rule in situation.facts.rules.get("VirtualService", ()) if on_mesh(rule)]
    return any(host in (spec_of(rule).get("hosts") or []) for rule in rules)


@SECTION.cause(
    "C05",
    "The client's Envoy does not know this service: a Sidecar resource or exportTo hides it",
    symptom="sessions move, or every request fails with 502",
    evidence="Envoy has neither a route nor a cluster for the service; a Sidecar does not list it, or exportTo of the Service excludes the client's namespace",
    fix="add the service to spec.egress[].hosts of the Sidecar, or the client's namespace to exportTo",
    reference="https://istio.io/latest/docs/reference/config/networking/sidecar/",
)
def hidden(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        view = client.view
        if view is None or view.cluster is not None or (view.route is not None and view.route.clusters):
            continue
        missing = (proxy_name(situation, client), f"cluster outbound|{situation.target.port}||{situation.fqdn}", None)
        export = (situation.service["metadata"].get("annotations") or {}).get(EXPORT)
        if export is not None and not exported({"metadata": situation.service["metadata"], "spec": {"exportTo": export.split(",")}}, client.pod.namespace):
            fix = patch("Service", situation.service, {"metadata": {"annotations": {EXPORT: f"{export},{client.pod.namespace}"}}})
            yield Hit(evidence((situation.source, f"metadata.annotations['{EXPORT}']", export), missing), fix)
            continue
        for sidecar in _sidecars_of(situation, client):
            if not _listed(situation, sidecar):
                hosts = [host for entry in spec_of(sidecar).get("egress") or [] for host in entry.get("hosts") or []]
                yield Hit(evidence((label("Sidecar", sidecar), "spec.egress[].hosts", hosts), missing), as_yaml(_with_host(situation, sidecar)))


def _sidecars_of(situation: Situation, client: Client) -> list[JsonDict]:
    """The Sidecar in force for a client: one that selects it, else the namespace's, else the root namespace's."""
    labels = situation.labels_of(client)
    rules = situation.facts.rules.get("Sidecar", ())
    own = [rule for rule in rules if rule["metadata"]["namespace"] == client.pod.namespace]
    chosen = [rule for rule in own if spec_of(rule).get("workloadSelector") and selects(spec_of(rule)["workloadSelector"], labels)]
    whole = [rule for rule in own if not spec_of(rule).get("workloadSelector")]
    root = [rule for rule in rules if rule["metadata"]["namespace"] == "istio-system" and not spec_of(rule).get("workloadSelector")]
    return (chosen or whole or root)[:1]


def _listed(situation: Situation, sidecar: JsonDict) -> bool:
    entries = spec_of(sidecar).get("egress")
    if not entries:
        return True
    own = sidecar["metadata"]["namespace"]
    for host in (host for entry in entries for host in entry.get("hosts") or []):
        namespace, _sep, name = host.partition("/")
        here = namespace in ("*", situation.target.namespace) or (namespace == "." and own == situation.target.namespace)
        if here and (name in ("*", situation.fqdn) or (name.startswith("*") and situation.fqdn.endswith(name[1:]))):
            return True
    return False


def _with_host(situation: Situation, sidecar: JsonDict) -> JsonDict:
    first, *rest = spec_of(sidecar)["egress"]
    host = f"{situation.target.namespace}/{situation.fqdn}"
    return {**sidecar, "spec": {**spec_of(sidecar), "egress": [{**first, "hosts": [*(first.get("hosts") or []), host]}, *rest]}}
