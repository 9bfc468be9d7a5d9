# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data that the parts of the check exchange; no I/O and little logic.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

JsonDict = dict[str, Any]

# The verdicts of a check, and the static verdicts of an inspection.
PASSED, FAILED, INCONCLUSIVE, NOT_PROVEN, ERROR = LIVE_VERDICTS = ("passed", "failed", "inconclusive", "not_proven", "error")
STICKS, DOES_NOT, UNKNOWN = STATIC_VERDICTS = ("sticks", "does_not", "unknown")
# The consistent-hash algorithms, as Envoy names them.
HASHING = ("RING_HASH", "MAGLEV")
PROBE_LABEL = "meshops.istio/probe=true"


class CheckError(Exception):
    """The check could not run. `code` is a stable word for programs, `msg` a message for users."""

    def __init__(self, code: str, msg: str) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg


@dataclass(frozen=True)
class Unread:
    """In the place of something that was not read, or not whole: `why`. It never means that there is none; what was read
    stands for itself."""

    why: str


@dataclass(frozen=True)
class Key:
    """What the service hashes on: `type` is header, cookie, query or source_ip; `origin` is option or rule.

    `cookie` says where a cookie's values come from: given (the session IDs), learned (from the first answer) or
    browser (from every answer that sets one). `own` is true for a source address where Envoy reads no header, as on a
    TCP port: then no request can carry another one, and each client is one session by its own address.
    """

    type: str
    name: str | None
    origin: str = "option"
    cookie: str = "given"
    own: bool = False

    @property
    def issued(self) -> bool:
        """The peer issues the values, so each client has its own."""
        return self.type == "cookie" and self.cookie != "given"

    def __str__(self) -> str:
        return f"{self.type} {self.name}" if self.name else self.type


@dataclass(frozen=True)
class Via:
    """A gateway on the path: where it is reached (`address`, `port`), the Host header to send, and, where it is a
    Service of the cluster, which one. `port_name` is the name of the Service's port, `listens` the port of a pod that it
    leads to, by which the gateway's Envoy names its routes."""

    address: str
    port: int
    host: str
    namespace: str | None = None
    service: str | None = None
    port_name: str | None = field(default=None, compare=False)
    listens: int | None = None


@dataclass(frozen=True)
class Target:
    """A port of a Service: `port` is the Service's, `host` the name under which the mesh knows the service,
    `persistence` its labels for Istio's persistent sessions, which are another thing than affinity by a hash.
    `listener` names Envoy's listener for a port that is not declared to be HTTP. `headers`, `key` and `sessions` are what
    the requests carry, by which Envoy may choose their route."""

    namespace: str
    service: str
    port: int
    port_name: str | None
    host: str
    path: str = "/"
    method: str = "GET"
    via: Via | None = None
    persistence: tuple[str, ...] = ()
    listener: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    key: Key | None = None
    sessions: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}:{self.port}"


@dataclass(frozen=True)
class Backend:
    """One endpoint of the service as its EndpointSlices show it; `address` is `ip:port`, the form Envoy prints."""

    pod: str
    uid: str
    address: str
    node: str | None
    zone: str | None
    ready: bool


@dataclass(frozen=True)
class Membership:
    """The endpoints at one moment. `slices` maps an EndpointSlice's uid to its generation, which rises with every
    change of an endpoint, so that a pod that came and went between two reads still shows. `age` is the seconds since
    the last change, by the API server's own clock, None where it does not say."""

    slices: dict[str, int]
    backends: tuple[Backend, ...]
    age: float | None = field(default=None, compare=False)

    def ready(self) -> tuple[Backend, ...]:
        return tuple(backend for backend in self.backends if backend.ready)


NOWHERE = Membership({}, ())


@dataclass(frozen=True)
class ObjectVersion:
    """The version of a configuration object: a change of the spec raises `generation`."""

    kind: str
    namespace: str
    name: str
    uid: str
    generation: int

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class ClientPod:
    """A pod that sends requests. `sidecar` says whether it has a container istio-proxy (an init container counts);
    `address` is the pod's IP. `ambient` says that ztunnel takes its requests, not a sidecar."""

    namespace: str
    pod: str
    uid: str
    node: str | None
    zone: str | None
    container: str
    sidecar: bool
    address: str = ""
    ambient: bool = False

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}"


@dataclass(frozen=True)
class Host:
    """A host of an Envoy cluster. `healthy` is false for any health flag that takes it out of the balancing. Envoy reaches
    an `hbone` host through a tunnel of its own, and prints and hashes another address for it than `address`. `place` is its
    place in Envoy's own order, in which a ring is filled."""

    address: str
    healthy: bool
    health_flags: str
    weight: int
    priority: int
    zone: str
    rq_total: int
    hbone: bool = False
    place: int = field(default=0, compare=False)


@dataclass(frozen=True)
class HashPolicy:
    """One entry of a route's hash_policy; `type` as in `Key`. `ttl` is only known for cookies, in seconds."""

    type: str
    name: str | None
    ttl: float | None = None

    def matches(self, key: Key) -> bool:
        if self.type != key.type:
            return False
        if self.type == "source_ip":
            return True
        if self.type == "header":
            return (self.name or "").lower() == (key.name or "").lower()
        return self.name == key.name


@dataclass(frozen=True)
class RouteView:
    """The route that a request of the probe takes. `clusters` has more than one entry for a weighted route.

    `headers_removed`, `headers_set` and `headers_added` are the request headers that it takes away, overwrites (with
    the value) or adds a value to, in small letters, all of it before Envoy hashes; `retry_predicates` are the conditions
    that keep a retry from a host. `protocol` is http or tcp; a TCP "route" is what the port's listener says.
    `unusual` names what else changes the hash, as only an EnvoyFilter can. `stateful` is whether Envoy's filter for
    persistent sessions is on for it. `answered` says how Envoy answers such a request itself (a redirect), if it does.
    `updated` is when Envoy last received it, by its own clock.
    """

    route_config: str
    virtual_host: str
    clusters: tuple[tuple[str, int], ...]
    hash_policies: tuple[HashPolicy, ...]
    rule: str | None
    version: str
    headers_removed: tuple[str, ...] = ()
    headers_set: tuple[tuple[str, str], ...] = ()
    retry_predicates: tuple[str, ...] = ()
    protocol: str = "http"
    headers_added: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()
    stateful: bool = False
    updated: str | None = field(default=None, compare=False)
    answered: str | None = None

    def destinations(self) -> tuple[str, ...]:
        """The clusters that receive requests: those with a weight, or all if none has one."""
        return tuple(name for name, weight in self.clusters if weight) or tuple(name for name, _weight in self.clusters)


@dataclass(frozen=True)
class Lane:
    """A route before the one that is taken, for requests with other headers or parameters: what it asks for, the clusters it
    leads to, and on what it hashes."""

    condition: str
    clusters: tuple[str, ...]
    hash_policies: tuple[HashPolicy, ...] = ()


@dataclass(frozen=True)
class ClusterView:
    """The upstream cluster: `rule` is the DestinationRule that Envoy was given (`namespace/name`), if any. `by_locality`
    says that localities have weights; `unusual` names what else changes the hash, as only an EnvoyFilter can. `panic` is
    the percentage of healthy hosts below which Envoy enters panic mode and selects from all hosts. `hash_policies` are the
    cluster's own, which only an EnvoyFilter can set, and which come before the route's. `updated` is when Envoy last
    received it, by its own clock."""

    name: str
    type: str
    lb_policy: str
    rule: str | None
    version: str
    minimum_ring_size: int | None = None
    table_size: int | None = None
    by_locality: bool = False
    unusual: tuple[str, ...] = ()
    panic: float = 50.0
    updated: str | None = field(default=None, compare=False)
    hash_policies: tuple[HashPolicy, ...] = ()


@dataclass(frozen=True)
class ProxyView:
    """What one client's Envoy knows about the target at one moment. `route` is None if no route matches;
    `virtual_host` then still names the virtual host, if there is one whose routes all ask for something else.

    `cluster` and `hosts` are those of the route's first destination; `alike` is false where a weighted route has others
    that a session could meet other hosts by.

    `doubt` is why the route cannot be told, though there may be one. `keyless` is the route of requests without the key,
    where that is another one. `lanes` are routes for requests with other headers than the probe's.
    `control_plane` is the address that the proxy has its configuration from (`istiod-canary.istio-system.svc:15012`).
    """

    proxy_version: str | None
    uptime: float | None
    route: RouteView | None
    cluster: ClusterView | None
    hosts: tuple[Host, ...]
    virtual_host: str | None = None
    alike: bool = True
    doubt: str | None = None
    keyless: RouteView | None = None
    lanes: tuple[Lane, ...] = ()
    control_plane: str | None = field(default=None, compare=False)

    def policies(self) -> tuple[HashPolicy, ...]:
        """What Envoy hashes: by the cluster's own policies, else by the route's."""
        own = self.cluster.hash_policies if self.cluster else ()
        return own or (self.route.hash_policies if self.route else ())

    def eligible(self) -> frozenset[str]:
        """The eligible addresses: healthy, and of the first priority in use."""
        return self._eligible

    @cached_property
    def _eligible(self) -> frozenset[str]:
        healthy = [host for host in self.hosts if host.healthy]
        if not healthy:
            return frozenset()
        first = min(host.priority for host in healthy)
        return frozenset(host.address for host in healthy if host.priority == first)

    def in_order(self) -> tuple[str, ...]:
        """The eligible addresses in Envoy's order."""
        hosts = sorted(self.hosts, key=lambda host: (host.place, host.address))
        return tuple(host.address for host in hosts if host.address in self._eligible)

    def panics(self) -> bool:
        """Whether so many hosts are unhealthy that Envoy is in panic mode, in which it also selects unhealthy hosts."""
        healthy = sum(host.healthy for host in self.hosts)
        return self.cluster is not None and bool(self.hosts) and 100 * healthy < self.cluster.panic * len(self.hosts)

    def is_tcp(self) -> bool:
        """Whether Envoy balances the port's connections, not requests."""
        return self.route is not None and self.route.protocol == "tcp"

    def balances_by(self, key: Key) -> bool:
        """Both halves are present: the route hashes on the key, and the cluster balances by consistent hash."""
        return (
            self.route is not None and self.cluster is not None and self.cluster.lb_policy in HASHING and any(policy.matches(key) for policy in self.policies())
        )


@dataclass(frozen=True)
class Survey:
    """What the API server says about target and clients before the first request."""

    target: Target
    clients: tuple[ClientPod, ...]
    membership: Membership
    rules: tuple[ObjectVersion, ...]
    versions: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """What the proxies that balance one client's requests know, and the endpoints, read together; taken before, between
    and after the segments of a run. `view` is the client's own Envoy's or the first gateway's, `others` are those of
    more gateway pods. `at` is when it was taken, in seconds on a clock that only rises. `gateway` are the endpoints of
    the gateway's Service, or `NOWHERE` without a gateway. `unread` says why a view that is None could not be read whole."""

    view: ProxyView | None
    membership: Membership
    others: tuple[ProxyView | None, ...] = ()
    at: float = 0.0
    gateway: Membership = NOWHERE
    unread: tuple[str, ...] = ()

    def views(self) -> tuple[ProxyView | None, ...]:
        return (self.view, *self.others)

    def eligible(self) -> tuple[frozenset[str], ...]:
        return tuple(view.eligible() for view in self.views() if view is not None)


@dataclass(frozen=True)
class EvidenceItem:
    """One piece of evidence: `source` names the object or page, `field` the place in it, `value` its content."""

    source: str
    field: str
    value: str


@dataclass(frozen=True)
class Fix:
    """A fix: `kind` is yaml (objects to apply), command (for a shell) or manual (a sentence). `checked` says what a fix to
    apply or run was checked against before it was printed."""

    kind: str
    body: str
    checked: str | None = None


@dataclass(frozen=True)
class Finding:
    """A cause of broken affinity or a risk to it; `id` is the catalogue's (C13), `severity` error, warning or info."""

    id: str
    severity: str
    title: str
    evidence: tuple[EvidenceItem, ...]
    fix: Fix
    reference: str


@dataclass(frozen=True)
class Facts:
    """The objects that a cause may involve: services and pods by namespace and name, rules by kind, the versions of the
    control plane, and the revisions of the istiod pods that were read. `unread` are the kinds of rules that could not be read
    everywhere, each with the reason: of these, one that is missing here may be there. `root_namespace` is that of the clients'
    control plane, whose rules are for all namespaces unless the mesh names another one."""

    services: dict[tuple[str, str], JsonDict]
    namespaces: dict[str, JsonDict]
    rules: dict[str, tuple[JsonDict, ...]]
    pods: dict[tuple[str, str], JsonDict]
    versions: dict[str, str | None] = field(default_factory=dict)
    revisions: tuple[str, ...] = ()
    unread: dict[str, str] = field(default_factory=dict)
    root_namespace: str = "istio-system"


@dataclass(frozen=True)
class ClientChoice:
    """The option `client`: a named pod, or a selector and how many pods of it."""

    namespace: str
    pod: str | None = None
    selector: str = PROBE_LABEL
    container: str | None = None
    max: int | None = None


@dataclass(frozen=True)
class Scope:
    """The scope of an inspection: these namespaces (None: all), and one service by name, or all that ask for affinity."""

    namespaces: tuple[str, ...] | None
    service: str | None = None
    port: int | None = None


def hashed_value(key: Key, value: str) -> str:
    """The value that Envoy hashes for a session: a parameter as in the URL, an address in its shortest form."""
    if key.type == "query":
        return quote(value, safe="")
    return str(ipaddress.ip_address(value)) if key.type == "source_ip" else value
