# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The effect of all DestinationRules on one caller, and the difference that a change of them makes. Pure.

The rules are those of istio/istio pilot/pkg/model/push_context.go (destinationRule), pilot/pkg/model/destination_rule.go
(mergeDestinationRule), pilot/pkg/model/sidecar.go (DestinationRule), pilot/pkg/networking/util/util.go (MergeTrafficPolicy) and
pilot/pkg/networking/core/route/route.go (HashForHTTPDestination).

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import exported, full_name, selects
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import (
    ROOT_NAMESPACE,
    balancer,
    consulted_namespaces,
    destination_rules,
    name_of,
    policy_in,
    policy_of,
    port_entry,
    spec_of,
    subset_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, Key

Path = tuple["str | int", ...]
# A namespace in place of all those that no rule mentions.
ELSEWHERE = "~"


@dataclass(frozen=True)
class Caller:
    """A proxy that sends requests, as the rules see it."""

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, namespace: str, labels: Mapping[str, str]) -> Caller:
        return cls(namespace, tuple(sorted(labels.items())))


@dataclass(frozen=True)
class Destination:
    """The cluster that a route leads to. `port_named` is whether the route names the port, without which it does not see what
    is set for a port."""

    host: str
    port: int
    subset: str = ""
    port_named: bool = True

    @property
    def home(self) -> str:
        """The namespace of a host that is a Service's name, else empty."""
        return self.host.split(".")[1] if ".svc." in self.host else ""


# -- what is in force --


def in_force(rules: Iterable[JsonDict], host: str, home: str, caller: Caller) -> list[JsonDict]:
    """The DestinationRules that Istio merges into the one in force, oldest first; empty if there is none.

    The first namespace with a rule for the host decides, even where its rule is for other workloads only.
    """
    matching = destination_rules(rules, host)
    for place in consulted_namespaces(caller.namespace, home):
        visible = [rule for rule in matching if rule["metadata"]["namespace"] == place and exported(rule, caller.namespace)]
        if visible:
            best = max(_precision(rule, host) for rule in visible)
            return _for_workload([rule for rule in visible if _precision(rule, host) == best], caller, place)
    return []


def _precision(rule: JsonDict, host: str) -> int:
    """An exact host comes before a wildcard, and a longer wildcard before a shorter one."""
    name = full_name(spec_of(rule)["host"], rule["metadata"]["namespace"], host)
    return -1 if name == "*" else len(name) if name.startswith("*") else len(name) + 1000


def _for_workload(rules: list[JsonDict], caller: Caller, place: str) -> list[JsonDict]:
    """The rules with a selector that matches, else those without; a selector counts in the caller's own namespace only."""
    labels = dict(caller.labels)
    own = [rule for rule in rules if _selector(rule) and place == caller.namespace and selects(spec_of(rule)["workloadSelector"], labels)]
    return [rule for rule in own if _selector(rule) == _selector(own[0])] or [rule for rule in rules if not _selector(rule)]


def _selector(rule: JsonDict) -> JsonDict:
    selector = spec_of(rule).get("workloadSelector") or {}
    return selector.get("matchLabels") or selector.get("labels") or {}


def merged(rules: Sequence[JsonDict]) -> JsonDict:
    """The trafficPolicy and the subsets of the rules in force together: of each, the oldest rule's that has it."""
    subsets: dict[str, JsonDict] = {}
    for entry in (entry for rule in rules for entry in spec_of(rule).get("subsets") or []):
        subsets.setdefault(entry.get("name", ""), entry)
    policy = next((policy_of(rule) for rule in rules if policy_of(rule)), {})
    return {"trafficPolicy": policy, "subsets": list(subsets.values())}


def rule_with(rules: Sequence[JsonDict], subset: str) -> JsonDict | None:
    """The one of the rules in force that sets the policy of a subset, or with an empty name the policy of the whole service."""
    if subset:
        return next((rule for rule in rules if subset_of(rule, subset)), None)
    return next((rule for rule in rules if policy_of(rule)), rules[0] if rules else None)


def place_of_balancer(rules: Sequence[JsonDict], to: Destination) -> tuple[JsonDict, Path] | None:
    """The rule and the place in it where the loadBalancer of a destination stands, or would stand. None without such a rule."""
    rule = rule_with(rules, to.subset) if to.subset else None
    subset = subset_of(rule, to.subset) if rule else None
    if to.subset and subset is None:
        return None
    own = (subset or {}).get("trafficPolicy") or {}
    if rule and (own.get("loadBalancer") or port_entry(own, to.port) is not None):
        return rule, ("spec", "subsets", spec_of(rule)["subsets"].index(subset), *_within(own, to.port))
    whole = rule_with(rules, "")
    return (whole, ("spec", *_within(policy_of(whole), to.port))) if whole else None


def _within(policy: JsonDict, port: int) -> Path:
    entry = port_entry(policy, port)
    if entry is None:
        return ("trafficPolicy", "loadBalancer")
    return ("trafficPolicy", "portLevelSettings", policy["portLevelSettings"].index(entry), "loadBalancer")


def cluster_balancer(spec: JsonDict, to: Destination) -> JsonDict:
    """The loadBalancer of Envoy's cluster. What is set for a port inherits nothing; what a subset does not set is the service's."""
    own = ((subset_of({"spec": spec}, to.subset) if to.subset else None) or {}).get("trafficPolicy") or {}
    if port_entry(own, to.port) is not None:
        return balancer(own, to.port)
    return own.get("loadBalancer") or balancer(spec.get("trafficPolicy") or {}, to.port)


def route_hash(spec: JsonDict, to: Destination) -> HashPolicy | None:
    """The hash policy of Envoy's route: the first that is set of the subset's port, the subset, the port and the service."""
    own = ((subset_of({"spec": spec}, to.subset) if to.subset else None) or {}).get("trafficPolicy") or {}
    levels = [entry for policy in (own, spec.get("trafficPolicy") or {}) for entry in (_port_level(policy, to), policy)]
    return next((policy for level in levels if (policy := policy_in(level.get("loadBalancer") or {}))), None)


def _port_level(policy: JsonDict, to: Destination) -> JsonDict:
    return (port_entry(policy, to.port) if to.port_named else None) or {}


def hash_in_force(rules: Iterable[JsonDict], to: Destination, caller: Caller) -> HashPolicy | None:
    """The hash policy of a destination for a caller, if both of Envoy's halves have it."""
    spec = merged(in_force(rules, to.host, to.home, caller))
    policy = route_hash(spec, to)
    return policy if policy is not None and policy_in(cluster_balancer(spec, to)) == policy else None


# -- what a change does --


def changed(body: JsonDict, place: Path, value: Any) -> JsonDict:
    """A copy of an object with one value set, or removed with None."""
    if not place:
        raise ValueError("no place")
    first, rest = place[0], place[1:]
    if isinstance(first, int):
        raise TypeError("a list has no value of its own")
    copy = dict(body)
    if not rest and value is None:
        copy.pop(first, None)
    elif not rest:
        copy[first] = value
    elif isinstance(rest[0], int):
        entries = list(copy[first])
        entries[rest[0]] = changed(entries[rest[0]], rest[1:], value)
        copy[first] = entries
    else:
        copy[first] = changed(copy.get(first) or {}, rest, value)
    return copy


def with_rule_in_place(rules: Iterable[JsonDict], rule: JsonDict) -> list[JsonDict]:
    """The rules after one was changed or created."""
    return [*(entry for entry in rules if name_of(entry) != name_of(rule)), rule]


def harm_of(before: Sequence[JsonDict], after: Sequence[JsonDict], to: Destination, ports: Collection[int], replaced: HashPolicy | None = None) -> str | None:
    """Whom a change of rules would touch besides the requests to one host, or what it would take from those; None if nothing.

    Requests to the host may gain a hash where they have none. They lose none, except the one that is `replaced`, and keep
    every other setting. All callers are compared that any rule distinguishes.
    """
    kept = {id(rule) for rule in before} & {id(rule) for rule in after}
    touching = [rule for rule in (*before, *after) if id(rule) not in kept]
    for host in _hosts_of(touching, before, to.host):
        home = Destination(host, to.port).home
        near = destination_rules(before, host), destination_rules(after, host)
        for caller in _callers((*near[0], *near[1]), home):
            old, new = (in_force(rules, host, home, caller) for rules in near)
            if _uncertain(old) or _uncertain(new):
                return f"rules for {host} with different exportTo are in force together"
            where = "any namespace" if caller.namespace == ELSEWHERE else f"namespace {caller.namespace}"
            if old != new and host != to.host:
                return f"it would change the policy of {host} for callers in {where}"
            loss = _loss(merged(old), merged(new), to, ports, replaced) if old != new else None
            if loss:
                return f"callers in {where} would lose {loss}"
    return None


def _uncertain(rules: Sequence[JsonDict]) -> bool:
    """Istio may or may not merge rules that are exported to different namespaces."""
    return len({frozenset(spec_of(rule).get("exportTo") or ["*"]) for rule in rules}) > 1


def _hosts_of(touching: Sequence[JsonDict], rules: Iterable[JsonDict], target: str) -> Iterator[str]:
    """The hosts whose policy the changed rules can affect; one stands for all those that only a wildcard matches."""
    found = {target}
    names = [full_name(spec_of(rule).get("host", ""), rule["metadata"]["namespace"], target) for rule in (*touching, *rules)]
    exact = set(names)
    for name in names[: len(touching)]:
        if name.startswith("*"):
            found |= {host for host in exact if not host.startswith("*") and host.endswith(name[1:])}
            found.add(f"another{name[1:]}" if name != "*" else "another.example.com")
        else:
            found.add(name)
    yield from sorted(found)


def _callers(rules: Iterable[JsonDict], home: str) -> Iterator[Caller]:
    """One caller for each combination of namespace and labels that the rules distinguish."""
    rules = list(rules)
    spaces = {home, ROOT_NAMESPACE, ELSEWHERE} | {rule["metadata"]["namespace"] for rule in rules}
    spaces |= {space for rule in rules for space in spec_of(rule).get("exportTo") or [] if space not in ("*", ".")}
    labels: list[Mapping[str, str]] = [{}, *(_selector(rule) for rule in rules if _selector(rule))]
    yield from dict.fromkeys(Caller.of(space, each) for space in sorted(spaces) if space for each in labels)


def _loss(old: JsonDict, new: JsonDict, to: Destination, ports: Collection[int], replaced: HashPolicy | None) -> str | None:
    """What requests to the host would lose or get besides the hash."""
    if [entry.get("name") for entry in old["subsets"]] != [entry.get("name") for entry in new["subsets"]]:
        return "their subsets, or get others"
    for subset in ("", *(entry.get("name", "") for entry in new["subsets"])):
        for port in sorted({*ports, to.port}):
            there = Destination(to.host, port, subset)
            if _other_settings(old, there) != _other_settings(new, there):
                return "other settings of the rule"
            clusters = policy_in(cluster_balancer(old, there)), policy_in(cluster_balancer(new, there))
            for before, after in (clusters, (route_hash(old, there), route_hash(new, there))):
                if before is not None and not _same(before, after) and not _same(before, replaced):
                    return f"their hash on {before.name or before.type}"
    return None


def _same(one: HashPolicy, two: HashPolicy | None) -> bool:
    return two is not None and one.matches(Key(two.type, two.name))


def _other_settings(spec: JsonDict, to: Destination) -> object:
    """The settings of a destination without the balancer's, level by level."""
    subset = subset_of({"spec": spec}, to.subset) if to.subset else None
    own, whole = (subset or {}).get("trafficPolicy") or {}, spec.get("trafficPolicy") or {}
    levels = (own, port_entry(own, to.port) or {}, whole, port_entry(whole, to.port) or {})
    kept = [{name: value for name, value in level.items() if name not in ("loadBalancer", "portLevelSettings")} for level in levels]
    return (subset or {}).get("labels"), kept
