# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which DestinationRules and VirtualServices apply to a service, and how Istio merges them. Pure.

The ways are those of istio/istio pilot/pkg/model/push_context.go (destinationRule), pilot/pkg/model/destination_rule.go
and pilot/pkg/networking/core/route/route.go (HashForHTTPDestination).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, Key, Target

Name = tuple[str, str]


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


def named(body: JsonDict) -> str:
    return f"{body['metadata'].get('namespace')}/{body['metadata'].get('name')}"


def spec_of(body: JsonDict) -> JsonDict:
    return body.get("spec") or {}


def policy_of(rule: JsonDict) -> JsonDict:
    return spec_of(rule).get("trafficPolicy") or {}


def port_entry(policy: JsonDict, port: int) -> JsonDict | None:
    """The entry of portLevelSettings for a port; such an entry inherits nothing of the rest."""
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
    """What loadBalancer settings hash on."""
    chosen = settings.get("consistentHash") or {}
    if chosen.get("httpHeaderName"):
        return HashPolicy("header", chosen["httpHeaderName"])
    if chosen.get("httpCookie"):
        return HashPolicy("cookie", chosen["httpCookie"].get("name"), 0.0 if "ttl" in chosen["httpCookie"] else None)
    if chosen.get("httpQueryParameterName"):
        return HashPolicy("query", chosen["httpQueryParameterName"])
    return HashPolicy("source_ip", None) if chosen.get("useSourceIp") else None


def hashes(settings: JsonDict, key: Key) -> bool:
    found = policy_in(settings)
    return found is not None and found.matches(key)


def all_settings(rule: JsonDict) -> list[JsonDict]:
    """Every loadBalancer in a rule: of the whole, of ports, of subsets and of their ports."""
    policies = [policy_of(rule), *(entry.get("trafficPolicy") or {} for entry in spec_of(rule).get("subsets") or [])]
    policies += [entry for policy in list(policies) for entry in policy.get("portLevelSettings") or []]
    return [policy["loadBalancer"] for policy in policies if policy.get("loadBalancer")]


def means_the_key(rule: JsonDict, key: Key) -> bool:
    return any(hashes(settings, key) for settings in all_settings(rule))


def on_mesh(rule: JsonDict) -> bool:
    """Whether sidecars use it: without gateways, or with the word mesh among them."""
    gateways = spec_of(rule).get("gateways")
    return not gateways or "mesh" in gateways


def destinations(rule: JsonDict) -> list[JsonDict]:
    """The destinations of all its HTTP routes."""
    routes = [entry for http in spec_of(rule).get("http") or [] for entry in http.get("route") or []]
    return [entry.get("destination") or {} for entry in routes]


def cluster_parts(name: str) -> tuple[int, str, str] | None:
    """Port, subset and host of C(outbound|80|v1|nginx-service.sample.svc.cluster.local)."""
    match = re.fullmatch(r"outbound\|(\d+)\|([^|]*)\|(.+)", name)
    return (int(match.group(1)), match.group(2), match.group(3)) if match else None


class Rules:
    """The DestinationRules that ask for affinity, by the service that they name; those with a wildcard apart."""

    def __init__(self, rules: Iterable[JsonDict]) -> None:
        self.exact: dict[Name, list[JsonDict]] = {}
        self.wild: list[JsonDict] = []
        for rule in {name_of(entry): entry for entry in rules if keys_of(entry)}.values():
            host = str(rule["spec"].get("host", ""))
            if host.startswith("*"):
                self.wild.append(rule)
            else:
                name, _dot, rest = host.partition(".")
                self.exact.setdefault((rest.split(".")[0] or rule["metadata"]["namespace"], name), []).append(rule)

    def of(self, service: JsonDict) -> Asked:
        namespace, name = name_of(service)
        target = Target(namespace, name, 0, None, name)
        rules = [*self.exact.get((namespace, name), []), *(rule for rule in self.wild if concerns("DestinationRule", rule, target))]
        keys = dict.fromkeys(key for rule in rules for key in keys_of(rule))
        return Asked(tuple("/".join(name_of(rule)) for rule in rules), tuple(keys), service["spec"].get("clusterIP") == "None")


def keys_of(rule: JsonDict) -> list[Key]:
    """What a DestinationRule hashes on, at any of its levels; nothing if it asks for no affinity."""
    spec = rule.get("spec") or {}
    policies = [spec.get("trafficPolicy") or {}, *(subset.get("trafficPolicy") or {} for subset in spec.get("subsets") or [])]
    levels = [level for policy in policies for level in (policy, *(policy.get("portLevelSettings") or []))]
    hashes = [(level.get("loadBalancer") or {}).get("consistentHash") for level in levels]
    return [key for entry in hashes if entry and (key := _key_of(entry))]


def _key_of(consistent_hash: JsonDict) -> Key | None:
    cookie = (consistent_hash.get("httpCookie") or {}).get("name")
    for kind, name in (("header", consistent_hash.get("httpHeaderName")), ("cookie", cookie), ("query", consistent_hash.get("httpQueryParameterName"))):
        if name:
            return Key(kind, str(name), "rule")
    return Key("source_ip", None, "rule") if consistent_hash.get("useSourceIp") else None


def name_of(entry: JsonDict) -> Name:
    return entry["metadata"]["namespace"], entry["metadata"]["name"]


@dataclass(frozen=True)
class Asked:
    """What the objects say of a service: the DestinationRules that ask for affinity with the keys that they hash on, and
    whether the service has no address of its own (headless)."""

    rules: tuple[str, ...] = ()
    keys: tuple[Key, ...] = ()
    headless: bool = False
