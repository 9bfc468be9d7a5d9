# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The client's proxy is not in the path of the requests. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Hit, Item, Section, Situation, evidence, proxy_name
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import as_yaml, command, free_name, list_patch, manual, merge_patch, new_rule
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    WAYPOINT,
    ambient_by,
    label,
    waypoint_is_known,
    waypoint_of,
    waypoint_places,
    workload_text,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import exported, selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import is_dns_name, kubectl
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import ROOT_NAMESPACE, on_mesh, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, JsonDict

SECTION = Section("The client's proxy is not in the path")
SIDECAR, SIDECAR_UID, INIT = "istio-proxy", 1337, "istio-init"
CAPTURE = "traffic.sidecar.istio.io/"
INJECT, REVISION = "sidecar.istio.io/inject", "istio.io/rev"
CONFIG = "proxy.istio.io/config"
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
        if ambient is None or waypoint_of(situation) or not waypoint_is_known(situation):
            continue
        containers = situation.body_of(client)["spec"].get("containers") or []
        items: list[Item] = [ambient, (f"Pod {client.pod}", "spec.containers", [entry["name"] for entry in containers] or [client.pod.container])]
        items += [
            (source, f"metadata.labels['{WAYPOINT}']", (body["metadata"].get("labels") or {}).get(WAYPOINT)) for source, body in waypoint_places(situation)
        ]
        fix = manual(
            f"Deploy a waypoint in namespace {situation.target.namespace} (istioctl waypoint apply --for service), then label {situation.source} with "
            f"{WAYPOINT}=waypoint. All its callers in ambient mode then go through the waypoint, which applies the service's routes and policies."
        )
        yield Hit(evidence(*items), fix, situation.severity)


@SECTION.cause(
    "C71",
    "The client pod has no sidecar, because no control plane serves the revision of its label",
    symptom="sessions move across all pods, from the clients of some namespaces",
    evidence="istio.io/rev of the pod or its namespace names no revision of the istiod pods, and the pod has no sidecar",
    fix="set the label to a revision or tag that exists (istioctl tag list), then recreate the pod",
    reference="https://istio.io/latest/docs/setup/upgrade/canary/#stable-revision-labels",
    synthetic="a state that was measured on Istio 1.31: a namespace with the label of a revision that was removed",
)
def revision_not_served(situation: Situation) -> Iterator[Hit]:
    for client in _without_sidecar(situation):
        source, revision = _revision(situation, client)
        served = situation.facts.revisions
        if not _not_served(situation, client):
            continue
        items = (
            (f"Pod {client.pod}", "spec.containers, spec.initContainers", _container_names(situation, client)),
            (source, "metadata.labels['istio.io/rev']", revision),
            ("istiod", "revisions of its pods", served),
        )
        text = (
            f"Label {source} with istio.io/rev={served[0]} or with a tag that exists (istioctl tag list), unless {revision} is such a tag; then recreate "
            f"{workload_text(client, situation.body_of(client))}. A label of the namespace decides for every pod that is created in it from then on."
        )
        yield Hit(evidence(*items), manual(text))


def _without_sidecar(situation: Situation) -> Iterator[Client]:
    for client in _own_proxies(situation):
        if not client.pod.sidecar and client.view is None and not ambient_by(situation, client):
            yield client


def _revision(situation: Situation, client: Client) -> tuple[str, str]:
    """The revision label of a pod or its namespace, and where it stands. A namespace's istio-injection comes first."""
    own = situation.labels_of(client).get(REVISION)
    labels = (situation.facts.namespaces.get(client.pod.namespace) or {"metadata": {}})["metadata"].get("labels") or {}
    if own and REVISION not in labels and "istio-injection" not in labels:
        return f"Pod {client.pod}", own
    return f"Namespace {client.pod.namespace}", "" if "istio-injection" in labels else labels.get(REVISION, "")


def _refuses(pod: JsonDict) -> list[str]:
    """Where a pod refuses a sidecar."""
    return [place for place in ("labels", "annotations") if (pod["metadata"].get(place) or {}).get(INJECT) == "false"]


def _container_names(situation: Situation, client: Client) -> list[str]:
    spec = situation.body_of(client)["spec"]
    names = [entry["name"] for entry in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]]
    return names or [client.pod.container]


def _not_served(situation: Situation, client: Client) -> bool:
    revision = _revision(situation, client)[1]
    return bool(revision and situation.facts.revisions and revision not in situation.facts.revisions) and not _refuses(situation.body_of(client))


@SECTION.cause(
    "C01",
    "The client pod has no sidecar, and no rule of the mesh applies to its requests",
    symptom="sessions move across all pods, from this client only",
    evidence="neither the pod's containers nor its init containers include istio-proxy",
    fix="label the namespace (istio-injection or istio.io/rev) or correct the pod's own label or annotation, then recreate the pod",
    reference="https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/",
)
def no_sidecar(situation: Situation) -> Iterator[Hit]:
    for client in _without_sidecar(situation):
        if _not_served(situation, client):
            continue
        pod, spec = situation.body_of(client), situation.body_of(client)["spec"]
        namespace = situation.facts.namespaces.get(client.pod.namespace)
        labels = (namespace or {"metadata": {}})["metadata"].get("labels") or {}
        items: list[Item] = [(f"Pod {client.pod}", "spec.containers, spec.initContainers", _container_names(situation, client))]
        if namespace:
            items.append((f"Namespace {client.pod.namespace}", "metadata.labels", _injection(labels)))
        items += [(f"Pod {client.pod}", f"metadata.{place}['{INJECT}']", "false") for place in _refuses(pod)]
        items += [(f"Pod {client.pod}", "spec.hostNetwork", True)] if spec.get("hostNetwork") else []
        yield Hit(evidence(*items), _inject(situation, client, pod, labels))


def _injection(labels: JsonDict) -> str:
    present = [f"{name}={labels[name]}" for name in ("istio-injection", REVISION) if name in labels]
    return ", ".join(present) or f"neither istio-injection nor {REVISION}"


def _inject(situation: Situation, client: Client, pod: JsonDict, labels: JsonDict) -> Fix:
    """How the client gets a sidecar, which then applies the mesh's rules to all that the workload sends, so it is not printed as a command."""
    if pod["spec"].get("hostNetwork"):
        return manual(f"Send the requests from another pod: pods on the host network, such as {client.pod}, get no sidecar.")
    owner, steps = workload_text(client, pod), []
    if _refuses(pod):
        steps.append(f"remove {INJECT}: false from {owner}")
    elif labels.get("istio-injection") == "enabled" or REVISION in labels:
        steps.append(f"find out why {owner} got no sidecar, for example because it is older than the label of its namespace")
    else:
        revisions = [name for name in situation.facts.revisions if name != "default"]
        choice = f"{REVISION}={revisions[0]}" if revisions and len(revisions) == len(situation.facts.revisions) else f"{INJECT}=true"
        steps.append(f"label {owner} with {choice}, or its namespace for all its pods")
    text = f"{', '.join(steps)}, then recreate it. The mesh's rules then apply to everything that it sends."
    return manual(f"{text[0].upper()}{text[1:]}")


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
        wait = kubectl("wait", "pod", client.pod.namespace, client.pod.pod, "--for=condition=Ready", "--timeout=180s")
        otherwise = f"Wait until pod {client.pod} is ready; if it does not become ready, read the log of its container {SIDECAR}."
        yield Hit(evidence(*items), command(wait, checked="The command changes nothing: it waits for the pod.", otherwise=otherwise))


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
        items = ((f"Pod {client.pod}", place, str(SIDECAR_UID)), *_counter_items(situation, client))
        text = (
            f"Run container {client.pod.container} of {workload_text(client, situation.body_of(client))} with a user ID other than {SIDECAR_UID} that may read "
            "and write its files."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C03",
    "An annotation of the client pod excludes requests to this service from redirection to the sidecar",
    symptom="sessions move; the sidecar counts none of the requests",
    evidence="the pod's annotations include excludeOutboundPorts, excludeOutboundIPRanges, includeOutboundIPRanges or interceptionMode: NONE",
    fix="take the port or address out of the annotation and recreate the pod",
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
        text = (
            f"In {workload_text(client, pod)}, change {', '.join(excluding)} so that {situation.service['spec'].get('clusterIP')}:{situation.target.port} is "
            "redirected, and recreate its pods. Requests to every other host with that port or address range then pass through the sidecar too."
        )
        yield Hit(evidence(*items, *_counter_items(situation, client)), manual(text))


def _excludes(situation: Situation, name: str, value: str) -> bool:
    if name == "sidecar.istio.io/interceptionMode":
        return value == "NONE"
    words = [word.strip() for word in value.split(",") if word.strip()]
    port, address = str(situation.target.port), situation.service["spec"].get("clusterIP") or ""
    if name == CONFIG:
        return "interceptionMode: NONE" in value
    ways = {
        f"{CAPTURE}excludeOutboundPorts": port in words,
        f"{CAPTURE}excludeOutboundIPRanges": _within(address, words),
        f"{CAPTURE}includeOutboundIPRanges": _outside(address, words),
    }
    return ways.get(name, False)


def _within(address: str, ranges: list[str]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
        return any(word == "*" or ip in ipaddress.ip_network(word, strict=False) for word in ranges)
    except ValueError:
        return "*" in ranges


def _outside(address: str, ranges: list[str]) -> bool:
    """Whether an address is in none of the ranges. A headless Service, or one that could not be read, has no address to tell by."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return not ranges
    return not _within(address, ranges)


@SECTION.cause(
    "C72",
    "The client's requests are not redirected to its sidecar, although no annotation of the pod excludes them",
    symptom="sessions move although route and cluster in the client's Envoy are correct; the sidecar counts none of the requests",
    evidence="istio-init of the pod runs something other than istio-iptables, or its arguments exclude the Service's address or port; Envoy counted no request",
    fix="correct the injection template or its values (global.proxy.excludeIPRanges and others), then recreate the pod",
    reference="https://istio.io/latest/docs/ops/deployment/application-requirements/",
    synthetic="states that were measured on Istio 1.31: an istio-init of the user's own, and excludeIPRanges in the values of the injector",
)
def not_redirected(situation: Situation) -> Iterator[Hit]:
    for client in _own_proxies(situation):
        spec = situation.body_of(client)["spec"]
        init: JsonDict = next((entry for entry in spec.get("initContainers") or [] if entry["name"] == INIT), {})
        counted = client.counted()
        if not client.pod.sidecar or not init or (situation.window is not None and counted):
            continue
        why = _not_iptables(init) or _excluded_by(situation, [str(word) for word in init.get("args") or []])
        if not why:
            continue
        items = ((f"Pod {client.pod}", f"spec.initContainers[{INIT}]", why), *_counter_items(situation, client))
        text = (
            f"Correct what defines {INIT} of {workload_text(client, situation.body_of(client))}: its own pod template, or the values of the injector, which "
            "apply to every pod of the mesh. Then recreate the pod."
        )
        yield Hit(evidence(*items), manual(text))


def _not_iptables(init: JsonDict) -> str:
    """The command of an init container that does not redirect, as text."""
    words = [str(word) for word in [*(init.get("command") or []), *(init.get("args") or [])]]
    return "" if not words or any("iptables" in word for word in words) else " ".join(words)


def _excluded_by(situation: Situation, words: list[str]) -> str:
    """The option of istio-iptables that excludes the service, as text: -i included and -x excluded addresses, -o excluded ports."""
    options = dict(itertools.pairwise(words))
    address, port = situation.service["spec"].get("clusterIP") or "", str(situation.target.port)
    if options.get("-x") and _within(address, options["-x"].split(",")):
        return f"-x {options['-x']}"
    if options.get("-i") and _outside(address, options["-i"].split(",")):
        return f"-i {options['-i']}"
    return f"-o {options['-o']}" if port in options.get("-o", "").split(",") else ""


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
    # One that could not be read may have the host.
    if situation.unread("VirtualService"):
        return
    known = [host for route in situation.facts.rules.get("VirtualService", ()) if on_mesh(route) for host in spec_of(route).get("hosts") or []]
    yield Hit(
        evidence(
            ("option via", "address, of " + situation.source, via.address),
            ("option via", "host", via.host),
            ("VirtualServices on the mesh", "spec.hosts", known),
        ),
        _by_host(situation, via.host.partition(":")[0]),
    )


def _by_host(situation: Situation, host: str) -> Fix:
    """A VirtualService for the host, for callers in the client's namespace only; not if callers reach another service by that name."""
    text = f"Call {situation.fqdn} by its name, or create a VirtualService for host {host} that leads to it"
    entries = [name for entry in situation.facts.rules.get("ServiceEntry", ()) for name in spec_of(entry).get("hosts") or []]
    if not is_dns_name(host) or "." not in host or ".svc." in host or host in entries or situation.unread("ServiceEntry"):
        return manual(f"{text}, unless callers reach something else by that name.")
    namespace = situation.clients[0].pod.namespace
    route = [{"destination": {"host": situation.fqdn, "port": {"number": situation.target.port}}}]
    name = free_name(situation, "VirtualService", namespace, f"{situation.target.service}-by-host")
    rule = new_rule("VirtualService", name, namespace, {"hosts": [host], "exportTo": ["."], "http": [{"route": route}]})
    checked = f"No VirtualService on the mesh and no ServiceEntry has the host {host}; only callers in namespace {namespace} get the route."
    return as_yaml(rule, checked=checked, otherwise=f"{text}.")


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
            fix = merge_patch(
                "Service",
                situation.service,
                {"metadata": {"annotations": {EXPORT: f"{export},{client.pod.namespace}"}}},
                checked=f"The Service becomes visible in namespace {client.pod.namespace}; the namespaces that see it now still do.",
                otherwise=f"Add namespace {client.pod.namespace} to the annotation {EXPORT} of {situation.source}.",
            )
            yield Hit(evidence((situation.source, f"metadata.annotations['{EXPORT}']", export), missing), fix)
            continue
        for sidecar in _sidecars_of(situation, client):
            if not _listed(situation, sidecar):
                ports = [(entry.get("port") or {}).get("number") for entry in spec_of(sidecar).get("egress") or [] if entry.get("port")]
                hosts = [host for entry in spec_of(sidecar).get("egress") or [] for host in entry.get("hosts") or []]
                items = [(label("Sidecar", sidecar), "spec.egress[].hosts", hosts), missing]
                items += [(label("Sidecar", sidecar), "spec.egress[].port.number", ports)] if ports else []
                yield Hit(evidence(*items), _with_host(situation, client, sidecar))


def _sidecars_of(situation: Situation, client: Client) -> list[JsonDict]:
    """The Sidecar in force for a client: one that selects it, else the namespace's, else the root namespace's."""
    labels = situation.labels_of(client)
    rules = situation.facts.rules.get("Sidecar", ())
    own = [rule for rule in rules if rule["metadata"]["namespace"] == client.pod.namespace]
    chosen = [rule for rule in own if spec_of(rule).get("workloadSelector") and selects(spec_of(rule)["workloadSelector"], labels)]
    whole = [rule for rule in own if not spec_of(rule).get("workloadSelector")]
    root = [rule for rule in rules if rule["metadata"]["namespace"] == "istio-system" and not spec_of(rule).get("workloadSelector")]
    return (chosen or whole or ([] if situation.unread("Sidecar") else root))[:1]


def _listed(situation: Situation, sidecar: JsonDict) -> bool:
    entries = spec_of(sidecar).get("egress")
    if not entries:
        return True
    own = sidecar["metadata"]["namespace"]
    # An entry for a port has a listener for that port only.
    here = [entry for entry in entries if (entry.get("port") or {}).get("number") in (None, situation.target.port)]
    for host in (host for entry in here for host in entry.get("hosts") or []):
        namespace, _sep, name = host.partition("/")
        near = namespace in ("*", situation.target.namespace) or (namespace == "." and own == situation.target.namespace)
        if near and (name in ("*", situation.fqdn) or (name.startswith("*") and situation.fqdn.endswith(name[1:]))):
            return True
    return False


def _with_host(situation: Situation, client: Client, sidecar: JsonDict) -> Fix:
    """Add the service to an egress entry for all ports, or an entry with it."""
    host = f"{situation.target.namespace}/{situation.fqdn}"
    otherwise = f"In {label('Sidecar', sidecar)}, add {host} to spec.egress[].hosts of an entry without port."
    entries = spec_of(sidecar)["egress"]
    place = next((number for number, entry in enumerate(entries) if not entry.get("port") and entry.get("hosts")), None)
    if sidecar["metadata"]["namespace"] == ROOT_NAMESPACE != client.pod.namespace:
        return manual(
            f"{otherwise} It applies to every namespace without a Sidecar of its own; a Sidecar in {client.pod.namespace} would apply to that one only."
        )
    add = {"op": "add", "path": "/spec/egress/-", "value": {"hosts": [host]}}
    if place is not None:
        add = {"op": "add", "path": f"/spec/egress/{place}/hosts/-", "value": host}
    checked = f"The Sidecar is of namespace {client.pod.namespace} only, and every host that its workloads reach now stays listed."
    return list_patch("Sidecar", sidecar, [add], checked=checked, otherwise=otherwise)
