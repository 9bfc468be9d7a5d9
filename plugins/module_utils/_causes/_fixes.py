# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fixes that a finding prints. Pure.

A fix of kind yaml or command must not harm: it is a patch of one object at the place where the policy stands, or a new object,
and never removes anything that others use. A change of rules is simulated first: the rules as they would be must make the client's
Envoy hash on the key, and leave the policy of everything else as it is. Every other fix is a sentence: what to do, and whom it
would touch.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import Client, Situation
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, route_in_force
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import (
    Caller,
    Destination,
    Path,
    changed,
    harm_of,
    hash_in_force,
    in_force,
    merged,
    place_of_balancer,
    with_rule_in_place,
)
from ansible_collections.meshops.istio.plugins.module_utils._istio.hosts import covers
from ansible_collections.meshops.istio.plugins.module_utils._istio.names import Line, as_json, as_yaml_text, is_dns_name, is_key, kubectl, printable
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, destinations, name_of, named, spec_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, HashPolicy, JsonDict, Key, ProxyView

KEY_FIELDS = ("httpHeaderName", "httpCookie", "httpQueryParameterName", "useSourceIp")
# A rule that does not exist yet is newer than all others.
NEWEST = "9999-12-31T23:59:59Z"
NO_TEXT = "a shell or Ansible could run a part of its names or values"


# -- the three kinds --


def manual(text: str) -> Fix:
    return Fix("manual", printable(text))


def command(*lines: Line | None, checked: str, otherwise: str) -> Fix:
    """Commands, or the sentence if one of them is not safe to print."""
    known = [line for line in lines if line is not None]
    return Fix("command", "\n".join(known), checked) if len(known) == len(lines) else manual(f"{otherwise} No command is printed: {NO_TEXT}.")


def as_yaml(*bodies: JsonDict, checked: str, otherwise: str) -> Fix:
    """New objects to apply as printed, or the sentence."""
    names = [name for body in bodies for name in name_of(body)]
    texts = [text for body in bodies if (text := as_yaml_text(body)) is not None]
    if len(texts) != len(bodies) or not all(map(is_dns_name, names)):
        return manual(f"{otherwise} No YAML is printed: {NO_TEXT}.")
    return Fix("yaml", "---\n".join(texts), checked)


def merge_patch(kind: str, body: JsonDict, change: JsonDict, *, checked: str, otherwise: str, how: str = "merge") -> Fix:
    """A command that changes fields of an object and leaves the rest."""
    line = kubectl("patch", kind, *name_of(body), f"--type={how}", "-p", as_json(change))
    return command(line, checked=checked, otherwise=otherwise)


def list_patch(kind: str, body: JsonDict, operations: Sequence[JsonDict], *, checked: str, otherwise: str) -> Fix:
    """A command that changes entries of lists. They are counted, so it refuses an object that has changed since it was read."""
    version = body["metadata"].get("resourceVersion")
    unchanged = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}] if version else []
    line = kubectl("patch", kind, *name_of(body), "--type=json", "-p", as_json([*unchanged, *operations]))
    return command(line, checked=checked, otherwise=otherwise)


def new_rule(kind: str, name: str, namespace: str, spec: JsonDict) -> JsonDict:
    return {"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def free_name(situation: Situation, kind: str, namespace: str, name: str) -> str:
    """The name, or with a number if there is such an object."""
    taken = {name_of(rule) for rule in situation.facts.rules.get(kind, ())}
    names = [name, *(f"{name}-{number}" for number in range(2, len(taken) + 3))]
    return next(each for each in names if (namespace, each) not in taken)


# -- what a rule of Istio needs to hash on a key --


def hash_on(key: Key, settings: JsonDict | None = None) -> JsonDict:
    """The given loadBalancer settings, changed to hash on the key."""
    old = settings or {}
    chosen = {name: value for name, value in (old.get("consistentHash") or {}).items() if name not in KEY_FIELDS}
    values: JsonDict = {"header": key.name, "cookie": {"name": key.name}, "query": key.name, "source_ip": True}
    own = dict(zip(("header", "cookie", "query", "source_ip"), KEY_FIELDS, strict=True))[key.type]
    chosen[own] = values[key.type]
    result = {name: value for name, value in old.items() if name not in ("simple", "consistentHash", "warmup", "warmupDurationSecs")}
    return result | {"consistentHash": chosen}


def difference(old: Any, new: Any) -> Any:
    """The merge patch (RFC 7396) that makes one value of another."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    removed = dict.fromkeys(name for name in old if name not in new)
    return removed | {name: difference(old.get(name), value) for name, value in new.items() if name not in old or old[name] != value}


# -- changes of DestinationRules, simulated --


@dataclass(frozen=True)
class Scene:
    """One client's requests in front of the DestinationRules: the caller, where its route leads, and the rules in force."""

    situation: Situation
    client: Client
    caller: Caller
    to: Destination
    rules: tuple[JsonDict, ...]
    near: tuple[JsonDict, ...]
    key: Key

    @property
    def ports(self) -> list[int]:
        return [int(port["port"]) for port in self.situation.service["spec"].get("ports") or [] if port.get("port")]

    def refusal(self, after: Sequence[JsonDict], replaced: HashPolicy | None = None) -> str | None:
        """Why a change of the rules is not printed; None if it mends this client's requests and harms nobody's."""
        if not is_key(self.key):
            return f"{self.key.type} keys cannot have this name"
        if unread := self.unread:
            return unread
        policy = hash_in_force(after, self.to, self.caller)
        if policy is None or not policy.matches(self.key):
            return f"in a simulation it did not make Envoy hash on {self.key}"
        return harm_of(self.rules, after, self.to, self.ports, replaced)

    @property
    def unread(self) -> str | None:
        """Why a simulation of the rules that were read proves nothing: others may exist, or the route's VirtualService is not known."""
        route = self.client.view.route if self.client.view else None
        hidden = route is not None and route.rule is not None and route_in_force(self.situation, self.client) is None
        return self.situation.unread("DestinationRule", *(("VirtualService",) if hidden else ()))

    @property
    def checked(self) -> str:
        whose = f"requests from pod {self.client.pod} to {self.to.host}" + (f", subset {self.to.subset}," if self.to.subset else "")
        return (
            f"A simulation of all DestinationRules that were read: afterwards {whose} are hashed on {self.key}. Every other host keeps its policy. Other "
            "callers, ports and subsets of this host keep their hash and settings, or get this hash where they have none."
        )


def scene(situation: Situation, client: Client, view: ProxyView, key: Key | None = None, host: str | None = None) -> Scene:
    names = [view.cluster.name] if view.cluster else [name for name, _weight in view.route.clusters] if view.route else []
    parts = next((parts for name in names if (parts := cluster_parts(name))), None) or (situation.target.port, "", situation.fqdn)
    to = Destination(host or parts[2], parts[0], parts[1], _names_port(situation, client, host or parts[2]))
    gateway = next(iter(situation.gateway_pods()), None) if situation.target.via else None
    labels = (gateway["metadata"].get("labels") or {}) if gateway else situation.labels_of(client)
    caller = Caller.of(situation.namespace_of(client), labels)
    rules = situation.facts.rules.get("DestinationRule", ())
    return Scene(situation, client, caller, to, rules, tuple(in_force(rules, to.host, to.home, caller)), key or situation.key)


def _names_port(situation: Situation, client: Client, host: str) -> bool:
    route = route_in_force(situation, client)
    leading = [each for each in destinations(route) if covers(each.get("host", ""), route["metadata"]["namespace"], host)] if route else []
    return all(each.get("port") for each in leading)


def merged_in_force(situation: Situation, client: Client, view: ProxyView) -> JsonDict:
    """The trafficPolicy and the subsets that are in force for a client, of all the rules that Istio merges."""
    return merged(scene(situation, client, view).near)


def set_hash(situation: Situation, client: Client, view: ProxyView, *, key: Key | None = None, replaced: HashPolicy | None = None) -> Fix:
    """Hash on the key in the rule in force, at the place where the balancer of this client's destination stands."""
    stage = scene(situation, client, view, key)
    what = f"hash on {stage.key}"
    place = place_of_balancer(stage.near, stage.to)
    if place is None:
        return _by_hand(stage, what, "the rules that were read have no place for it")
    if str(spec_of(place[0])["host"]).startswith("*"):
        return _beside(stage, place[0])
    old = _value(place[0], place[1]) or {}
    return change_rule(stage, view, place[0], place[1], hash_on(stage.key, old), what, replaced)


def _beside(stage: Scene, wide: JsonDict) -> Fix:
    """A rule for the host alone beside the one with a wildcard, which other hosts live by: the same policy, with the hash."""
    spec = {name: value for name, value in merged(stage.near).items() if value}
    spec = {"host": stage.to.host, **({"exportTo": spec_of(wide)["exportTo"]} if spec_of(wide).get("exportTo") else {}), **spec}
    body = new_rule("DestinationRule", "", wide["metadata"]["namespace"], spec)
    place = place_of_balancer([body], stage.to)
    if place is not None:
        body = changed(body, place[1], hash_on(stage.key, _value(body, place[1])))
    return _created(stage, body, f"{stage.situation.target.service}-affinity")


def change_balancer(situation: Situation, client: Client, view: ProxyView, value: JsonDict, what: str, also: str) -> Fix:
    """Merge settings into the balancer of this client's destination, at the place where it stands. `also` is the effect on its
    callers besides the hash."""
    stage = scene(situation, client, view)
    place = place_of_balancer(stage.near, stage.to)
    if place is None:
        return _by_hand(stage, what, "the rules that were read have no place for it")
    fix = change_rule(stage, view, place[0], place[1], _joined(_value(place[0], place[1]) or {}, value), what)
    return replace(fix, checked=f"{fix.checked} {also}") if fix.checked else fix


def change_rule(stage: Scene, view: ProxyView | None, rule: JsonDict, place: Path, value: Any, what: str, replaced: HashPolicy | None = None) -> Fix:
    """Set one value of a DestinationRule. With a `view`, Envoy's cluster must name the rules that the simulation has in force."""
    used = view.cluster.rule if view is not None and view.cluster else None
    if used is not None and used not in map(named, stage.near):
        return _by_hand(stage, what, f"Envoy uses {used}, and by the rules that were read it would use another one", rule)
    after = with_rule_in_place(stage.rules, changed(rule, place, value))
    refusal = stage.refusal(after, replaced)
    if refusal:
        return _by_hand(stage, what, refusal, rule)
    otherwise = f"In {label('DestinationRule', rule)}, {what}."
    if any(isinstance(step, int) for step in place):
        path = "/" + "/".join(map(str, place))
        operation = {"op": "remove", "path": path} if value is None else {"op": "add", "path": path, "value": value}
        return list_patch("DestinationRule", rule, [operation], checked=stage.checked, otherwise=otherwise)
    change = difference(_value(rule, place), value)
    for step in reversed(place):
        change = {step: change}
    return merge_patch("DestinationRule", rule, change, checked=stage.checked, otherwise=otherwise)


def create_rule(stage: Scene, name: str) -> Fix:
    """A new DestinationRule in the namespace of the host, which sets nothing but the hash."""
    namespace = stage.to.home or stage.situation.target.namespace
    spec = {"host": stage.to.host, "trafficPolicy": {"loadBalancer": hash_on(stage.key)}}
    return _created(stage, new_rule("DestinationRule", "", namespace, spec), name)


def _created(stage: Scene, body: JsonDict, name: str) -> Fix:
    """A new DestinationRule as YAML, if it does no harm."""
    namespace = body["metadata"]["namespace"]
    what = f"create a DestinationRule for {stage.to.host} that hashes on {stage.key}"
    body = {**body, "metadata": {"name": free_name(stage.situation, "DestinationRule", namespace, name), "namespace": namespace}}
    simulated = {**body, "metadata": {**body["metadata"], "creationTimestamp": NEWEST}}
    refusal = stage.refusal([*stage.rules, simulated])
    if refusal:
        return manual(f"{what[0].upper()}{what[1:]} in namespace {namespace}. No YAML is printed, because {refusal}.")
    return as_yaml(body, checked=stage.checked, otherwise=f"In namespace {namespace}, {what}.")


def _by_hand(stage: Scene, what: str, reason: str, rule: JsonDict | None = None) -> Fix:
    where = label("DestinationRule", rule) if rule else f"the DestinationRule for {stage.to.host}"
    return manual(f"In {where}, {what}. No command is printed, because {reason}.")


def _value(body: Any, place: Iterable[str | int]) -> Any:
    for step in place:
        body = body[step] if isinstance(step, int) else (body or {}).get(step)
    return body


def _joined(old: JsonDict, new: JsonDict) -> JsonDict:
    """The settings with others merged into them; None removes one."""
    result = {name: value for name, value in old.items() if name not in new or new[name] is not None}
    for name, value in new.items():
        if isinstance(value, dict):
            result[name] = _joined(old.get(name) or {}, value)
        elif value is not None:
            result[name] = value
    return result


# -- changes of VirtualServices --


def only_for(rule: JsonDict, fqdn: str) -> bool:
    """Whether a VirtualService is for requests to one service only, on the mesh."""
    hosts = spec_of(rule).get("hosts") or []
    return bool(hosts) and not any(host.startswith("*") or not covers(host, rule["metadata"]["namespace"], fqdn) for host in hosts)
