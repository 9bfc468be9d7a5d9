# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which DestinationRules and VirtualServices apply to a service, and how Istio merges them. Pure.

The rules are those of istio/istio pilot/pkg/model/push_context.go (destinationRule), pilot/pkg/model/destination_rule.go
and pilot/pkg/networking/core/route/route.go (HashForHTTPDestination).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers, exported, names_service, selects
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, Key, Target

# Istio's usual root namespace, whose rules apply to the whole mesh.
ROOT_NAMESPACE = "istio-system"

Name = tuple[str, str]


# -- names --


def name_of(body: JsonDict) -> Name:
    """Namespace and name."""
    return body["metadata"]["namespace"], body["metadata"]["name"]


def named(body: JsonDict) -> str:
    """The same as text."""
    return f"{body['metadata'].get('namespace')}/{body['metadata'].get('name')}"


def spec_of(body: JsonDict) -> JsonDict:
    return body.get("spec") or {}


# -- which rules apply --


def concerns(kind: str, rule: JsonDict, target: Target) -> bool:
    """Whether a rule may affect requests to the target, by its hosts. Sidecar and EnvoyFilter select by workload, and their
    effect is not visible in the object, so each of them counts."""
    if kind == "DestinationRule":
        hosts = [spec_of(rule).get("host", "")]
    elif kind == "VirtualService":
        routes = [entry for name in ("http", "tcp", "tls") for entry in spec_of(rule).get(name) or []]
        led_to = [(entry.get("destination") or {}).get("host", "") for route in routes for entry in route.get("route") or []]
        hosts = [*(spec_of(rule).get("hosts") or []), *led_to]
    else:
        return True
    return any(_may_name(host, rule["metadata"]["namespace"], target) for host in hosts)


def _may_name(host: str, namespace: str, target: Target) -> bool:
    """The mesh's domain is not known here, so a wildcard counts if it could end in it: one rule too many in the window is
    better than one too few."""
    return names_service(host, namespace, (target.namespace, target.service)) or (host.startswith("*") and ".svc." not in host)


def destination_rules(rules: Iterable[JsonDict], fqdn: str) -> list[JsonDict]:
    """The DestinationRules whose host matches a service, oldest first, as Istio orders them."""
    return _oldest_first(rule for rule in rules if covers(spec_of(rule).get("host", ""), rule["metadata"]["namespace"], fqdn))


def virtual_services(rules: Iterable[JsonDict], fqdn: str) -> list[JsonDict]:
    """The VirtualServices with a host that matches a service, oldest first."""
    return _oldest_first(rule for rule in rules if any(covers(host, rule["metadata"]["namespace"], fqdn) for host in spec_of(rule).get("hosts") or []))


def _oldest_first(rules: Iterable[JsonDict]) -> list[JsonDict]:
    return sorted(rules, key=lambda rule: (rule["metadata"].get("creationTimestamp") or "", named(rule)))


def consulted_namespaces(client_namespace: str, service_namespace: str, root: str = ROOT_NAMESPACE) -> list[str]:
    """The namespaces that Istio searches for a DestinationRule, in this order."""
    return list(dict.fromkeys((client_namespace, service_namespace, root)))


def applies_to(rule: JsonDict, client_namespace: str, service_namespace: str, labels: JsonDict, root: str = ROOT_NAMESPACE) -> bool:
    """Whether a DestinationRule is a candidate for a client with these labels."""
    near = rule["metadata"]["namespace"] in consulted_namespaces(client_namespace, service_namespace, root)
    return near and exported(rule, client_namespace) and selects(spec_of(rule).get("workloadSelector"), labels)


@dataclass(frozen=True)
class Declared:
    """What the objects declare about a service: the DestinationRules that ask for affinity with the keys that they hash
    on, and whether the service has no address of its own (headless)."""

    rules: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    headless: bool = False


class AffinityRules:
    """The DestinationRules that ask for affinity, by the service that they name, and those with a wildcard. `domains`
    are the mesh's, if known."""

    def __init__(self, rules: Iterable[JsonDict], domains: Collection[str] = ()) -> None:
        self.domains = domains
        self.exact: dict[Name, list[JsonDict]] = {}
        self.wild: list[JsonDict] = []
        for rule in {name_of(entry): entry for entry in rules if keys_of(entry)}.values():
            host = str(spec_of(rule).get("host", ""))
            if host.startswith("*"):
                self.wild.append(rule)
            else:
                # Only candidates: `names_service` decides.
                name, _dot, rest = host.partition(".")
                self.exact.setdefault((rest.partition(".")[0] or rule["metadata"]["namespace"], name), []).append(rule)

    def for_service(self, service: JsonDict) -> Declared:
        candidates = [*self.exact.get(name_of(service), []), *self.wild]
        rules = [rule for rule in candidates if names_service(str(spec_of(rule)["host"]), rule["metadata"]["namespace"], name_of(service), self.domains)]
        keys = dict.fromkeys(key for rule in rules for key in keys_of(rule))
        return Declared(tuple(named(rule) for rule in rules), tuple(keys), service["spec"].get("clusterIP") == "None")


# -- the content of a DestinationRule --


def policy_of(rule: JsonDict) -> JsonDict:
    return spec_of(rule).get("trafficPolicy") or {}


def port_entry(policy: JsonDict, port: int) -> JsonDict | None:
    """The entry of portLevelSettings for a port; such an entry inherits nothing from the policy."""
    entries: list[JsonDict] = policy.get("portLevelSettings") or []
    return next((entry for entry in entries if (entry.get("port") or {}).get("number") == port), None)


def balancer(policy: JsonDict, port: int) -> JsonDict:
    """The loadBalancer that a policy has for a port."""
    entry = port_entry(policy, port)
    return (policy if entry is None else entry).get("loadBalancer") or {}


def subset_of(rule: JsonDict, name: str) -> JsonDict | None:
    subsets: list[JsonDict] = spec_of(rule).get("subsets") or []
    return next((entry for entry in subsets if entry.get("name") == name), None)


def policy_in(settings: JsonDict) -> HashPolicy | None:
    """The hash policy of loadBalancer settings."""
    chosen = settings.get("consistentHash") or {}
    if chosen.get("httpHeaderName"):
        return HashPolicy("header", chosen["httpHeaderName"])
    if chosen.get("httpCookie"):
        return HashPolicy("cookie", chosen["httpCookie"].get("name"), 0.0 if "ttl" in chosen["httpCookie"] else None)
    if chosen.get("httpQueryParameterName"):
        return HashPolicy("query", chosen["httpQueryParameterName"])
    return HashPolicy("source_ip", None) if chosen.get("useSourceIp") else None


def hashes(settings: JsonDict, key: Key) -> bool:
    policy = policy_in(settings)
    return policy is not None and policy.matches(key)


def all_settings(rule: JsonDict) -> list[JsonDict]:
    """Every loadBalancer in a rule: of the rule itself, of ports, of subsets and of their ports."""
    policies = [policy_of(rule), *(entry.get("trafficPolicy") or {} for entry in spec_of(rule).get("subsets") or [])]
    levels = [level for policy in policies for level in (policy, *(policy.get("portLevelSettings") or []))]
    return [level["loadBalancer"] for level in levels if level.get("loadBalancer")]


def keys_of(rule: JsonDict) -> list[Key]:
    """The keys that a DestinationRule hashes on, at any level; empty if it does not ask for affinity."""
    policies = [policy for settings in all_settings(rule) if (policy := policy_in(settings))]
    return [Key(policy.type, policy.name, "rule") for policy in policies if policy.name or policy.type == "source_ip"]


def means_the_key(rule: JsonDict, key: Key) -> bool:
    return any(hashes(settings, key) for settings in all_settings(rule))


def on_mesh(rule: JsonDict) -> bool:
    """Whether sidecars use a VirtualService: without gateways, or with mesh among them."""
    gateways = spec_of(rule).get("gateways")
    return not gateways or "mesh" in gateways


def destinations(rule: JsonDict) -> list[JsonDict]:
    """The destinations of all its HTTP routes."""
    routes = [entry for http in spec_of(rule).get("http") or [] for entry in http.get("route") or []]
    return [entry.get("destination") or {} for entry in routes]


def cluster_parts(name: str) -> tuple[int, str, str] | None:
    """Port, subset and host of `outbound|80|v1|nginx-service.sample.svc.cluster.local`."""
    match = re.fullmatch(r"outbound\|(\d+)\|([^|]*)\|(.+)", name)
    return (int(match.group(1)), match.group(2), match.group(3)) if match else None
