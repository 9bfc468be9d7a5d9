# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Kubernetes says about a service, its endpoints, the client pods and the rules. Reads only.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    CheckError,
    ClientPod,
    Facts,
    JsonDict,
    Membership,
    ObjectVersion,
    Survey,
    Target,
)

# AnsibleK8SModule reports a missing library before any of these is used.
with contextlib.suppress(ImportError):
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

SIDECAR = "istio-proxy"
PROBE_LABEL = "meshops.istio/probe=true"
# The label prefix of Istio's persistent sessions: by a cookie, or with -header behind it by a header.
PERSISTENCE_LABEL = "istio.io/persistent-session"
CONTAINER_ANNOTATION = "kubectl.kubernetes.io/default-container"
ISTIO_NAMESPACE = "istio-system"
TIMEOUT = (5, 30)

# The kinds that decide how a request is routed and balanced: plural -> kind, all in networking.istio.io/v1
# but for EnvoyFilter, which Istio still serves as v1alpha3.
RULES = {
    "destinationrules": ("DestinationRule", "v1"),
    "virtualservices": ("VirtualService", "v1"),
    "sidecars": ("Sidecar", "v1"),
    "envoyfilters": ("EnvoyFilter", "v1alpha3"),
}
# What an explanation reads: these, and the hosts that Istio knows besides the Services.
EXPLAINING = RULES | {"serviceentries": ("ServiceEntry", "v1")}
# plural -> API group and version; what is not here is in the core group
GROUPS = {plural: ("networking.istio.io", version) for plural, (_kind, version) in EXPLAINING.items()} | {"endpointslices": ("discovery.k8s.io", "v1")}
ISTIOD_SELECTOR = "app=istiod"


@dataclass(frozen=True)
class ClientChoice:
    """The option C(client): a named pod, or a selector and how many pods of it."""

    namespace: str
    pod: str | None = None
    selector: str = PROBE_LABEL
    container: str | None = None
    max: int | None = None


class Cluster:
    """The few reads that the check needs, as plain dictionaries, with every failure as a L(CheckError).

    By paths and the dynamic client, as the generated API classes of the Python client cost a second to import (release 37).
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def service(self, namespace: str, name: str) -> JsonDict | None:
        return self._found(_core(namespace, "services", name), f"get services in namespace {namespace}")

    def pod(self, namespace: str, name: str) -> JsonDict | None:
        return self._found(_core(namespace, "pods", name), f"get pods in namespace {namespace}")

    def pods(self, namespace: str, selector: str) -> list[JsonDict]:
        return self.listed("pods", namespace, selector)

    def services(self, namespace: str) -> list[JsonDict]:
        return self.listed("services", namespace)

    def endpoint_slices(self, namespace: str, service: str) -> list[JsonDict]:
        return self.endpoint_slices_now(namespace, service)[0]

    def endpoint_slices_now(self, namespace: str, service: str) -> tuple[list[JsonDict], str | None]:
        """The slices, and the time at which the API server says that it answered (the header Date)."""
        answer = self._answer(*_list("endpointslices", namespace), label_selector=f"kubernetes.io/service-name={service}")
        if answer is None:
            return [], None
        return list(json.loads(answer.data).get("items") or []), answer.headers.get("Date")

    def listed(self, plural: str, namespace: str | None, selector: str = "") -> list[JsonDict]:
        """All objects of a kind in a namespace, or with None in all of them: one of another namespace may be the one that was meant."""
        found = self._found(*_list(plural, namespace), label_selector=selector or None)
        return list((found or {}).get("items") or [])

    def namespace(self, name: str) -> JsonDict | None:
        return self._found(_core(name), f"get namespace {name}")

    def namespaces(self) -> tuple[str, ...]:
        found = self._found("/api/v1/namespaces", "list namespaces")
        return tuple(entry["metadata"]["name"] for entry in (found or {}).get("items") or [])

    def node(self, name: str) -> JsonDict | None:
        return self._found(_path("api", "v1", "nodes", name), f"get node {name}")

    def version(self) -> str | None:
        return (self._found("/version", "get /version") or {}).get("gitVersion")

    def sidecar_log(self, client: ClientPod, since: float) -> str:
        """What the client's sidecar has logged from a time on (seconds since 1970)."""
        query = [("container", SIDECAR), ("sinceSeconds", max(1, int(time.time() - since) + 2))]
        path, what = _core(client.namespace, "pods", client.pod, "log"), f"get pods/log in namespace {client.namespace}"
        answer = self._answer(path, what, query_params=query, header_params={"Accept": "*/*"})
        return "" if answer is None else bytes(answer.data).decode("utf-8", "replace")

    def _found(self, path: str, what: str, **words: Any) -> JsonDict | None:
        """The answer as a dictionary, or None where the object or its kind does not exist."""
        answer = self._answer(path, what, **words)
        found = json.loads(answer.data) if answer is not None else None
        return found if isinstance(found, dict) else None

    def _answer(self, path: str, what: str, **words: Any) -> Any:
        """The answer, or None where there is no such object. Raises L(CheckError) for every other failure."""
        try:
            return self.client.request("get", path, serialize=False, _request_timeout=TIMEOUT, **words)
        except ApiException as error:
            if error.status == 404:
                return None
            raise _api_error(error, what) from error
        except (HTTPError, OSError) as error:
            raise CheckError("api_unreachable", f"The API server did not answer ({what}): {error}. Next: check kubeconfig, context and network.") from error


def _path(*parts: str) -> str:
    """A path of the API; names come from options, and one with a slash in it must not lead elsewhere."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _core(namespace: str, *more: str) -> str:
    return _path("api", "v1", "namespaces", namespace, *more)


def _list(plural: str, namespace: str | None) -> tuple[str, str]:
    """Path of a list, and what a permission for it is called."""
    where = ("namespaces", namespace) if namespace else ()
    what = f"in namespace {namespace}" if namespace else "in all namespaces"
    if plural in GROUPS:
        group, version = GROUPS[plural]
        return _path("apis", group, version, *where, plural), f"list {plural}.{group} {what}"
    return _path("api", "v1", *where, plural), f"list {plural} {what}"


def _api_error(error: Any, what: str) -> CheckError:
    if error.status == 401:
        return CheckError("unauthorized", f"The API server does not accept the credentials ({what}). Next: renew the kubeconfig or token.")
    if error.status == 403:
        return CheckError("forbidden", f"No permission to {what}. Next: grant that verb on that resource to the account of this run.")
    return CheckError("api_error", f"The API server answered {error.status} {error.reason} ({what}).")


def take_survey(cluster: Cluster, target: Target, choice: ClientChoice) -> Survey:
    """Everything that is read before the first request. Raises L(CheckError)."""
    membership = read_membership(cluster, target)
    clients = choose_clients(cluster, choice, {backend.node: backend.zone for backend in membership.backends})
    rules, unread = read_rules(cluster, target, choice.namespace)
    return Survey(target, clients, membership, rules, unread, {"kubernetes": cluster.version()})


def find_target(cluster: Cluster, namespace: str, name: str, client_namespace: str, port: int | None, path: str, method: str) -> Target:
    """The service and the port to call. Raises L(CheckError) with C(no_service), C(no_port) or C(headless)."""
    service = cluster.service(namespace, name)
    if service is None:
        raise CheckError("no_service", f"There is no Service {namespace}/{name}. Next: correct the options namespace and service, or create it.")
    chosen = choose_port(service, port)
    host = name if client_namespace == namespace else f"{name}.{namespace}"
    labels = service["metadata"].get("labels") or {}
    persistence = tuple(f"{label}={value}" for label, value in sorted(labels.items()) if label in (PERSISTENCE_LABEL, f"{PERSISTENCE_LABEL}-header"))
    listener = listener_of(service, chosen)
    return Target(namespace, name, chosen["port"], chosen.get("name"), host, path, method, persistence=persistence, listener=listener)


def choose_port(service: JsonDict, wanted: int | None) -> JsonDict:
    """The port named by the option, else the only one, else the only one that Istio takes for HTTP."""
    label = f"Service {service['metadata']['namespace']}/{service['metadata']['name']}"
    ports: list[JsonDict] = service["spec"].get("ports") or []
    listed = ", ".join(f"{port['port']} ({port.get('name', 'unnamed')})" for port in ports) or "none"
    if wanted is not None:
        for port in ports:
            if port["port"] == wanted:
                return port
        raise CheckError("no_port", f"{label} has no port {wanted}; it has {listed}. Next: correct the option port.")
    if len(ports) == 1:
        return ports[0]
    http = [port for port in ports if speaks_http(port)]
    if len(http) == 1:
        return http[0]
    raise CheckError("no_port", f"{label} has several ports ({listed}). Next: say which in the option port.")


def speaks_http(port: JsonDict) -> bool:
    """Istio's protocol selection for plain HTTP, by appProtocol or the port's name (no sniffing)."""
    protocol = str(port.get("appProtocol") or (port.get("name") or "").split("-")[0]).lower()
    return protocol in ("http", "http2", "grpc", "grpc-web", "kubernetes.io/h2c")


def listener_of(service: JsonDict, port: JsonDict) -> str | None:
    """The listener that Istio makes for a port that is not declared to be HTTP, of a service with an address of its own."""
    address = service["spec"].get("clusterIP")
    return f"{address}_{port['port']}" if address not in (None, "", "None") and not speaks_http(port) else None


def choose_clients(cluster: Cluster, choice: ClientChoice, zones: Mapping[str | None, str | None] | None = None) -> tuple[ClientPod, ...]:
    """The named pod, or the ready pods of the selector, one for each zone unless C(max) asks for more or fewer; C(zones)
    are those of nodes, as far as they are known already."""
    if choice.pod is not None:
        pod = cluster.pod(choice.namespace, choice.pod)
        if pod is None:
            raise CheckError("no_client", f"There is no Pod {choice.namespace}/{choice.pod} to send from. Next: correct the option client.")
        return (client_pod(pod, choice.container),)
    running = [pod for pod in cluster.pods(choice.namespace, choice.selector) if is_ready(pod)]
    if not running:
        raise CheckError(
            "no_client",
            f"No ready Pod in namespace {choice.namespace} carries the label {choice.selector}. "
            f"Next: kubectl -n {choice.namespace} get pods -l {choice.selector}, or name a pod in the option client.",
        )
    found = [client_pod(pod, choice.container) for pod in running]
    return pick_clients(found if choice.max else with_zones(cluster, found, zones or {}), choice.max)


def with_zones(cluster: Cluster, clients: Iterable[ClientPod], zones: Mapping[str | None, str | None]) -> list[ClientPod]:
    """The clients, each in the zone of its node where its pod names none: only a newer Kubernetes copies the node's label to
    pods, and only to those that its scheduler places. Where nodes may not be read either, the zone stays unknown."""
    known: dict[str | None, str | None] = {node: zone for node, zone in zones.items() if zone}
    found = []
    for client in clients:
        if client.zone is None and client.node and client.node not in known:
            known[client.node] = zone_of_node(cluster, client.node)
        found.append(replace(client, zone=client.zone or known.get(client.node)))
    return found


def zone_of_node(cluster: Cluster, name: str) -> str | None:
    try:
        node = cluster.node(name)
    except CheckError:
        return None
    return _zone(node["metadata"]) if node else None


def _zone(meta: JsonDict) -> str | None:
    return (meta.get("labels") or {}).get("topology.kubernetes.io/zone")


def pick_clients(found: Iterable[ClientPod], most: int | None) -> tuple[ClientPod, ...]:
    """One for each zone, or up to so many, the first by their names."""
    ordered = sorted(found, key=lambda client: (client.namespace, client.pod))
    if most is not None:
        return tuple(ordered[:most])
    by_zone: dict[str | None, ClientPod] = {}
    for client in ordered:
        by_zone.setdefault(client.zone, client)
    return tuple(by_zone.values())


def client_pod(pod: JsonDict, container: str | None) -> ClientPod:
    """Where to run curl in this pod. Raises L(CheckError) with C(client_not_running) or C(no_container)."""
    meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    label = f"Pod {meta['namespace']}/{meta['name']}"
    if status.get("phase") != "Running" or meta.get("deletionTimestamp"):
        phase = "Terminating" if meta.get("deletionTimestamp") else status.get("phase", "unknown")
        raise CheckError("client_not_running", f"{label} is {phase}, not Running. Next: wait for it, or name another client.")
    statuses = status.get("containerStatuses") or []
    return ClientPod(
        namespace=meta["namespace"],
        pod=meta["name"],
        uid=meta["uid"],
        node=spec.get("nodeName"),
        zone=_zone(meta),
        container=choose_container(pod, label, container),
        sidecar=has_sidecar(spec),
        restarts=sum(int(entry.get("restartCount", 0)) for entry in statuses),
        address=status.get("podIP") or "",
    )


def choose_container(pod: JsonDict, label: str, wanted: str | None) -> str:
    """As kubectl chooses: the annotation, else the first container; but never the sidecar, whose traffic is not redirected."""
    names = [container["name"] for container in pod["spec"]["containers"]]
    if wanted == SIDECAR:
        raise CheckError(
            "no_container", f"Requests from container {SIDECAR} of {label} bypass the mesh. Next: name the application's container in client.container."
        )
    if wanted is not None:
        if wanted not in names:
            raise CheckError("no_container", f"{label} has no container {wanted}; it has {', '.join(names)}. Next: correct client.container.")
        return wanted
    annotated = (pod["metadata"].get("annotations") or {}).get(CONTAINER_ANNOTATION)
    candidates = [name for name in names if name != SIDECAR]
    if annotated in candidates:
        return str(annotated)
    if not candidates:
        raise CheckError("no_container", f"{label} has no container but {SIDECAR}. Next: name another client.")
    return str(candidates[0])


def has_sidecar(spec: JsonDict) -> bool:
    """A native sidecar is an init container, so both lists count."""
    containers = list(spec.get("containers") or []) + list(spec.get("initContainers") or [])
    return any(container["name"] == SIDECAR for container in containers)


def is_ready(pod: JsonDict) -> bool:
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = pod.get("status", {}).get("conditions") or []
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def read_membership(cluster: Cluster, target: Target) -> Membership:
    slices, now = cluster.endpoint_slices_now(target.namespace, target.service)
    return replace(membership_of(slices, target), age=age_of(slices, now))


def age_of(slices: Iterable[JsonDict], now: str | None) -> float | None:
    """Seconds since the last write to any of the slices, give or take one; None where the API server does not say."""
    times = [field["time"] for entry in slices for field in entry["metadata"].get("managedFields") or [] if field.get("time")]
    if not times or now is None:
        return None
    last = max(datetime.strptime(time, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) for time in times)
    return (parsedate_to_datetime(now) - last).total_seconds()


def membership_of(slices: Iterable[JsonDict], target: Target) -> Membership:
    """Endpoints of the target's port in all slices. An address in two slices (dual stack) stands once for each."""
    generations: dict[str, int] = {}
    backends: list[Backend] = []
    for entry in slices:
        generations[entry["metadata"]["uid"]] = int(entry["metadata"].get("generation") or 0)
        for port in entry.get("ports") or []:
            if target.port_name in (None, "", port.get("name")):
                backends.extend(_backends(entry, int(port["port"])))
    return Membership(generations, tuple(sorted(set(backends), key=lambda backend: backend.address)))


def _backends(entry: JsonDict, port: int) -> Iterable[Backend]:
    for endpoint in entry.get("endpoints") or []:
        reference = endpoint.get("targetRef") or {}
        # A missing condition is to be read as true, except terminating (EndpointSlice API).
        ready = (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or []:
            shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            yield Backend(
                pod=reference.get("name") or address,
                uid=reference.get("uid") or "",
                address=shown,
                node=endpoint.get("nodeName"),
                zone=endpoint.get("zone"),
                ready=ready,
            )


def read_rules(cluster: Cluster, target: Target, client_namespace: str) -> tuple[tuple[ObjectVersion, ...], tuple[str, ...]]:
    """The versions of all rules that could touch the request, and what may not be read with this account's rights.

    An account that may only read pods and services can still run the check: Envoy's own configuration, read in the
    client, is the first witness for a change of the rules.
    """
    found: list[ObjectVersion] = []
    unread: list[str] = []
    for namespace in dict.fromkeys((target.namespace, client_namespace, ISTIO_NAMESPACE)):
        for plural, (kind, _version) in RULES.items():
            try:
                entries = cluster.listed(plural, namespace)
            except CheckError as error:
                if error.code != "forbidden":
                    raise
                unread.append(f"{plural} in namespace {namespace}")
                continue
            found.extend(object_version(kind, entry["metadata"]) for entry in entries if concerns(kind, entry, target))
    return tuple(found), tuple(unread)


def concerns(kind: str, rule: JsonDict, target: Target) -> bool:
    """Whether a rule can touch requests to the target, by the hosts that it names. Sidecar and EnvoyFilter choose by
    workload, and their effect can't be told from outside, so each of them counts."""
    spec = rule.get("spec") or {}
    if kind == "DestinationRule":
        hosts = [spec.get("host", "")]
    elif kind == "VirtualService":
        routes = [entry for name in ("http", "tcp", "tls") for entry in spec.get(name) or []]
        destinations = [(entry.get("destination") or {}).get("host", "") for route in routes for entry in route.get("route") or []]
        hosts = [*(spec.get("hosts") or []), *destinations]
    else:
        return True
    return any(_names(host, rule["metadata"]["namespace"], target) for host in hosts)


def _names(host: str, namespace: str, target: Target) -> bool:
    """A short name means a service of the rule's own namespace. The mesh's domain is not known here, so a wildcard
    counts if it could end in it: better one rule too many in the window than one too few."""
    if host.startswith("*"):
        return ".svc." not in host or f".{target.namespace}.svc." in f".{host}"
    if "." not in host:
        return host == target.service and namespace == target.namespace
    return f"{host}.".startswith(f"{target.service}.{target.namespace}.")


def object_version(kind: str, meta: JsonDict) -> ObjectVersion:
    return ObjectVersion(kind, meta["namespace"], meta["name"], meta["uid"], int(meta.get("generation") or 0))


class _Reader:
    """Reads that may fail: what can't be read is noted, and read as nothing."""

    def __init__(self) -> None:
        self.unread: list[str] = []

    def __call__(self, read: Callable[..., Any], *words: str) -> Any:
        try:
            return read(*words)
        except CheckError as error:
            self.unread.append(error.msg)
            return None


def read_facts(cluster: Cluster, targets: Sequence[Target], clients: Sequence[ClientPod]) -> Facts:
    """The bodies of everything that a cause may lie in, for one service or many. Nothing here is needed for a verdict, so
    what can't be read is noted and never an error."""
    read = _Reader()
    namespaces = list(dict.fromkeys([*(target.namespace for target in targets), *(client.namespace for client in clients)]))
    services: list[JsonDict] = []
    pods: list[JsonDict] = []
    if len(targets) == 1:
        service = read(cluster.service, targets[0].namespace, targets[0].service)
        services = [service] if service else []
        pods = _pods_of(cluster, service, read) if service else []
    else:
        for namespace in dict.fromkeys(target.namespace for target in targets):
            services += read(cluster.services, namespace) or []
            pods += read(cluster.pods, namespace, "") or []
    for place, name in dict.fromkeys((target.via.namespace, target.via.service) for target in targets if target.via):
        gateway = read(cluster.service, place, name) if place and name else None
        services += [gateway] if gateway else []
        pods += _pods_of(cluster, gateway, read) if gateway else []
    known = {_named(pod) for pod in pods}
    pods += [pod for client in clients if (client.namespace, client.pod) not in known and (pod := read(cluster.pod, client.namespace, client.pod))]
    istiod = read(cluster.pods, ISTIO_NAMESPACE, ISTIOD_SELECTOR) or []
    return Facts(
        services={_named(service): service for service in services},
        namespaces={name: body for name in namespaces if (body := read(cluster.namespace, name))},
        rules={kind: tuple(_rules_to_explain(cluster, plural, namespaces, read)) for plural, (kind, _version) in EXPLAINING.items()},
        pods={_named(pod): pod for pod in pods},
        unread=tuple(dict.fromkeys(read.unread)),
        versions={"istiod": image_version(istiod[0]) if istiod else None},
    )


def _pods_of(cluster: Cluster, service: JsonDict, read: _Reader) -> list[JsonDict]:
    """Those that a Service selects."""
    selector = (service.get("spec") or {}).get("selector") or {}
    wanted = ",".join(f"{name}={value}" for name, value in selector.items())
    return read(cluster.pods, service["metadata"]["namespace"], wanted) or [] if selector else []


def _rules_to_explain(cluster: Cluster, plural: str, namespaces: Sequence[str], read: _Reader) -> list[JsonDict]:
    """Those of all namespaces, or where that is not allowed those of the namespaces that Istio looks into."""
    try:
        return cluster.listed(plural, None)
    except CheckError:
        found = [read(cluster.listed, plural, namespace) or [] for namespace in dict.fromkeys((*namespaces, ISTIO_NAMESPACE))]
        return [rule for rules in found for rule in rules]


def _named(body: JsonDict) -> tuple[str, str]:
    return body["metadata"]["namespace"], body["metadata"]["name"]


def image_version(pod: JsonDict) -> str | None:
    """The tag of the pod's first image, without a variant (C(1.31.0-distroless) is 1.31.0); None where it is no version."""
    image = pod["spec"]["containers"][0].get("image", "")
    match = re.search(r":v?(\d+\.\d+\.\d+)", image)
    return match.group(1) if match else None
