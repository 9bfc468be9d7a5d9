# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The input of the causes, and the sections of the catalogue, in which causes register. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ansible_collections.meshops.istio.plugins.module_utils._istio.names import printable
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    ClientPod,
    EvidenceItem,
    Facts,
    Fix,
    HashPolicy,
    JsonDict,
    Key,
    Membership,
    ProxyView,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import ClientWindow, Verdict, Window

SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Client:
    """One client pod with the views of its Envoy (or, through a gateway, of the gateway's pods), oldest first."""

    pod: ClientPod
    views: tuple[ProxyView, ...]

    @property
    def view(self) -> ProxyView | None:
        return self.views[-1] if self.views else None

    def counted(self) -> int | None:
        """How many requests its Envoy sent to hosts of the service between the first view and the last."""
        if len(self.views) < 2:
            return None
        earlier = {host.address: host.rq_total for host in self.views[0].hosts}
        return sum(max(0, host.rq_total - earlier.get(host.address, 0)) for host in self.views[-1].hosts)


@dataclass(frozen=True)
class Situation:
    """The input of every cause. `window` and `verdict` are None if no requests were sent. `expected` is false if no option
    or rule asks for affinity: then it is no error that sessions move."""

    key: Key
    target: Target
    facts: Facts
    clients: tuple[Client, ...]
    membership: Membership
    window: Window | None = None
    verdict: Verdict | None = None
    expected: bool = True

    @property
    def service(self) -> JsonDict:
        return self.facts.services.get((self.target.namespace, self.target.service)) or {"metadata": {}, "spec": {}}

    @property
    def port(self) -> JsonDict:
        ports: list[JsonDict] = self.service["spec"].get("ports") or []
        return next((port for port in ports if port.get("port") == self.target.port), {})

    @property
    def fqdn(self) -> str:
        """The name by which Istio knows the service. The domain is taken from the names of Envoy's clusters."""
        start = f"{self.target.service}.{self.target.namespace}.svc."
        names = [view.cluster.name.rpartition("|")[2] for client in self.clients if (view := client.view) and view.cluster]
        return next((name for name in names if name.startswith(start)), f"{start}cluster.local")

    @property
    def source(self) -> str:
        return f"Service {self.target.namespace}/{self.target.service}"

    def unread(self, *kinds: str) -> str | None:
        """Why there may be objects of these kinds besides those that were read; None if all were read. What is not among the objects
        is absent only then."""
        return next((f"not every {kind} could be read ({self.facts.unread[kind].rstrip('.')})" for kind in kinds if kind in self.facts.unread), None)

    def namespace_of(self, client: Client) -> str:
        """The namespace of the proxy that balances, by which Istio chooses the rules."""
        return (self.target.via.namespace if self.target.via else None) or client.pod.namespace

    def body_of(self, client: Client) -> JsonDict:
        return self.facts.pods.get((client.pod.namespace, client.pod.pod)) or {"metadata": {}, "spec": {}}

    def labels_of(self, client: Client) -> dict[str, str]:
        return self.body_of(client)["metadata"].get("labels") or {}

    def readable(self) -> Iterator[tuple[Client, ProxyView]]:
        """Clients whose proxy could be read, each with its last view."""
        for client in self.clients:
            if client.view is not None:
                yield client, client.view

    def not_hashing(self) -> Iterator[tuple[Client, ProxyView]]:
        """Readable clients whose proxy does not balance by the key."""
        return ((client, view) for client, view in self.readable() if not view.balances_by(self.key) and not view.doubt)

    @property
    def severity(self) -> str:
        """The severity of a cause that makes sessions move: no error if nothing asks for affinity."""
        return "error" if self.expected else "info"

    def parts_of(self, client: Client) -> list[ClientWindow]:
        """The client windows of one client."""
        return [entry for entry in self.window.client_windows if entry.client == client.pod] if self.window else []

    def moved(self) -> bool:
        return self.verdict is not None and any(fate.moved for fate in self.verdict.fates)

    def gateway_pods(self) -> list[JsonDict]:
        """The pods of the gateway's Service that were read."""
        via = self.target.via
        gateway = self.facts.services.get((via.namespace or "", via.service or "")) if via else None
        wanted = (gateway or {"spec": {}})["spec"].get("selector") or {}
        pods = [body for (namespace, _name), body in self.facts.pods.items() if via and namespace == via.namespace]
        return [pod for pod in pods if wanted and wanted.items() <= (pod["metadata"].get("labels") or {}).items()]

    def backend_pods(self) -> list[JsonDict]:
        names = [(self.target.namespace, backend.pod) for backend in self.membership.backends]
        return [self.facts.pods[name] for name in dict.fromkeys(names) if name in self.facts.pods]


@dataclass(frozen=True)
class Hit:
    """A cause that holds: the part of the finding that is not in the catalogue."""

    evidence: tuple[EvidenceItem, ...]
    fix: Fix
    severity: str = "error"


# Source, field and value of a piece of evidence, before the value is turned into text.
Item = tuple[str, str, object]
Finder = Callable[[Situation], Iterator[Hit]]


@dataclass(frozen=True)
class Cause:
    """An entry of the catalogue. `symptom`, `evidence` and `fix` are texts of the page. `synthetic`, for a cause that the lab
    cannot produce, says what the synthetic state of its test is based on."""

    id: str
    title: str
    symptom: str
    evidence: str
    fix: str
    reference: str
    find: Finder
    synthetic: str | None = None


@dataclass
class Section:
    """The causes of one part of the catalogue, in the order in which they are reported if several hold."""

    title: str
    causes: list[Cause] = field(default_factory=list)

    def cause(
        self, number: str, title: str, *, symptom: str, evidence: str, fix: str, reference: str, synthetic: str | None = None
    ) -> Callable[[Finder], Finder]:
        """Register the decorated function in the catalogue."""

        def enter(find: Finder) -> Finder:
            self.causes.append(Cause(number, title, symptom, evidence, fix, reference, find, synthetic))
            return find

        return enter


def evidence(*items: Item) -> tuple[EvidenceItem, ...]:
    return tuple(EvidenceItem(printable(source), printable(field_name), printable(_as_text(value))) for source, field_name, value in items)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(str(entry) for entry in value) or "none"
    return str(value)


def proxy_name(situation: Situation, client: Client) -> str:
    via = situation.target.via
    return f"Envoy of gateway {via.namespace}/{via.service}" if via and via.service else f"Envoy of pod {client.pod}"


def speaks_http(view: ProxyView) -> bool:
    """Whether Envoy has an HTTP route for the service; a TCP port has none, or only its listener's."""
    return view.route is not None and view.route.protocol != "tcp"


def balancing(view: ProxyView) -> tuple[object, ...]:
    """The properties that two Envoys must share to select the same hosts."""
    cluster = view.cluster
    return (view.eligible(), (cluster.lb_policy, cluster.minimum_ring_size, cluster.table_size) if cluster else None)


def policies_of(view: ProxyView) -> str:
    """The route's hash policies as text."""
    if view.route is None:
        return "no route"
    return ", ".join(policy_text(policy) for policy in view.policies()) or "none"


def policy_text(policy: HashPolicy) -> str:
    return " ".join(filter(None, (policy.type, policy.name)))
