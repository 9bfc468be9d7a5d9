# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The request carries no hash key, or another one than was meant. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import (
    Client,
    Hit,
    Section,
    Situation,
    evidence,
    policies_of,
    proxy_name,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import (
    balancer,
    label,
    made_to_hash,
    patch,
    policy_in,
    policy_of,
    route_in_force,
    rule_in_force,
    spec_of,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes.rule import nearly
from ansible_collections.meshops.istio.plugins.module_utils._model import Fix, HashPolicy, JsonDict
from ansible_collections.meshops.istio.plugins.module_utils._tally import Trace

SECTION = Section("The request carries no key, or another one")
RULE = "https://istio.io/latest/docs/reference/config/networking/destination-rule/"
COOKIE = f"{RULE}#LoadBalancerSettings-ConsistentHashLB-HTTPCookie"


@SECTION.cause(
    "C42",
    "A VirtualService takes the key's header away or overwrites it, and that happens before the hash",
    symptom="sessions move (removed), or all of them land on one pod (overwritten)",
    seen="headers.request.remove or headers.request.set of the VirtualService names the key; so does the route in Envoy",
    cure="leave that header alone in the VirtualService",
    reference="https://istio.io/latest/docs/reference/config/networking/virtual-service/#Headers",
)
def header_altered(situation: Situation) -> Iterator[Hit]:
    name = (situation.key.name or "").lower()
    for client, view in situation.seen():
        route = view.route
        if route is None or situation.key.type != "header":
            continue
        values = [value for header, value in route.headers_set if header == name]
        if name not in route.headers_removed and not values:
            continue
        what = "removed" if name in route.headers_removed else f"set to {values[0]}"
        seen = [(proxy_name(situation, client), f"request header {name} on the route", what)]
        rule = route_in_force(situation, client)
        if rule is None:
            yield Hit(evidence(*seen), Fix("manual", f"Find what alters the header {name} (an EnvoyFilter, perhaps) and remove it."))
            continue
        seen.append((label("VirtualService", rule), "spec.http[].headers.request", what))
        yield Hit(evidence(*seen), patch("VirtualService", rule, {"spec": {"http": [_untouched(entry, name) for entry in spec_of(rule)["http"]]}}))


def _untouched(http: JsonDict, name: str) -> JsonDict:
    """A route without its operations on one header, on the route itself and on its destinations."""
    cleaned = {**http, "headers": _without(http.get("headers") or {}, name)}
    cleaned["route"] = [{**entry, "headers": _without(entry.get("headers") or {}, name)} for entry in http.get("route") or []]
    for level in (cleaned, *cleaned["route"]):
        if not level["headers"]:
            del level["headers"]
    return cleaned


def _without(headers: JsonDict, name: str) -> JsonDict:
    request = dict(headers.get("request") or {})
    for operation in ("set", "add"):
        request[operation] = {header: value for header, value in (request.get(operation) or {}).items() if header.lower() != name}
    request["remove"] = [header for header in request.get("remove") or [] if header.lower() != name]
    kept = {operation: value for operation, value in request.items() if value}
    others = {side: value for side, value in headers.items() if side != "request"}
    return {**others, "request": kept} if kept else others


@SECTION.cause(
    "C41",
    "The rule hashes on a name that is almost the one that is sent",
    symptom="sessions move",
    seen="the hash policy of Envoy's route has a name that differs from the key's by a letter or a dash",
    cure="the same name in both",
    reference=f"{RULE}#LoadBalancerSettings-ConsistentHashLB",
)
def mistyped(situation: Situation) -> Iterator[Hit]:
    for client, view in situation.blind():
        rule = rule_in_force(situation, client)
        found = policy_in(balancer(policy_of(rule), situation.target.port)) if rule else None
        if rule is None or not _nearly(situation, found):
            continue
        seen = (
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer.consistentHash", found.name if found else None),
            ("requests", situation.key.type, situation.key.name),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        )
        yield Hit(evidence(*seen), made_to_hash(rule, situation.key, situation.target.port))


def _nearly(situation: Situation, found: HashPolicy | None) -> bool:
    return found is not None and found.type == situation.key.type and not found.matches(situation.key) and nearly(found.name or "", situation.key)


@SECTION.cause(
    "C40",
    "A session is empty, and an empty cookie is no key",
    symptom="only sessions without a value move",
    seen="the key is a cookie, and the session that moved has the empty ID",
    cure="give every session a value before it is sent",
    reference="https://github.com/envoyproxy/envoy/blob/main/source/common/http/hash_policy.cc",
)
def empty_value(situation: Situation) -> Iterator[Hit]:
    if situation.verdict is None or situation.key.type != "cookie" or situation.key.issued:
        return
    for fate in situation.verdict.fates:
        if fate.id == "" and fate.moved:
            yield Hit(
                evidence(("session ''", "pods", fate.pods.keys()), ("requests", f"cookie {situation.key.name}", "empty")),
                Fix("manual", f"Give every request a value in the cookie {situation.key.name}; see why the application sends none."),
            )


def _issued(situation: Situation) -> Iterator[tuple[Client, HashPolicy]]:
    """Clients that wait for a cookie from the other side, with the policy of their route on it."""
    for client, view in situation.seen() if situation.key.issued and situation.moved() else ():
        for policy in view.route.hash_policies if view.route else ():
            if policy.matches(situation.key):
                yield client, policy


def _moved_once(trace: Trace) -> bool:
    """The first request landed elsewhere than all others: it had no cookie yet, and they had one."""
    return trace.moves == 1 and trace.runs[0].first == trace.runs[0].last and len(trace.runs) == 2


def _traces(situation: Situation) -> list[Trace]:
    return [trace for entry in situation.window.evidence for trace in entry.traces if trace.moves] if situation.window else []


@SECTION.cause(
    "C43",
    "The cookie's rule has no ttl, so Envoy issues no cookie, and a client that was given none has none to send",
    symptom="sessions of new clients move",
    seen="the rule's httpCookie has no ttl, and no answer set the cookie",
    cure="httpCookie.ttl: 0s lets Envoy issue a session cookie",
    reference=COOKIE,
)
def nobody_issues(situation: Situation) -> Iterator[Hit]:
    for client, policy in _issued(situation):
        rule = rule_in_force(situation, client)
        settings = policy_of(rule).get("loadBalancer") or {} if rule else {}
        if rule is None or policy.ttl is not None or all(_moved_once(trace) for trace in _traces(situation)):
            continue
        change = {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpCookie": {"ttl": "0s"}}}}}}
        seen = (
            (label("DestinationRule", rule), "consistentHash.httpCookie", (settings.get("consistentHash") or {}).get("httpCookie")),
            (proxy_name(situation, client), "ttl of the hash policy", policy.ttl),
        )
        yield Hit(evidence(*seen), patch("DestinationRule", rule, change))


@SECTION.cause(
    "C63",
    "The application issues the cookie after the first request has landed, and the cookie's hash leads elsewhere",
    symptom="each session moves once, with its second request",
    seen="no session met another pod after its second request; Envoy does not issue the cookie",
    cure="httpCookie.ttl: 0s with a cookie of Envoy's own, or keep the session's data where all pods find it",
    reference=COOKIE,
)
def application_issues(situation: Situation) -> Iterator[Hit]:
    traces = _traces(situation)
    for client, policy in _issued(situation):
        if policy.ttl is None and traces and all(_moved_once(trace) for trace in traces):
            seen = (
                ("sessions", "moved with the second request, of those that moved", f"{len(traces)} of {len(traces)}"),
                (proxy_name(situation, client), "ttl of the hash policy", policy.ttl),
            )
            yield Hit(
                evidence(*seen),
                Fix("manual", f"Hash on a cookie of another name than {situation.key.name}, with ttl: 0s, so that Envoy issues it with the first answer."),
            )
