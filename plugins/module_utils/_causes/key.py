# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The request has no hash key, or not the intended one. Pure.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.meshops.istio.plugins.module_utils._causes._base import (
    Client,
    Hit,
    Item,
    Section,
    Situation,
    evidence,
    policies_of,
    proxy_name,
)
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import manual, merged_in_force, set_hash
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import label, route_in_force, settings_of, with_rule
from ansible_collections.meshops.istio.plugins.module_utils._causes.rule import is_nearly_key, is_tracing_header
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Destination, cluster_balancer
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import cluster_parts, named, policy_in
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, JsonDict, ProxyView
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Trace

SECTION = Section("The request has no key, or not the intended one")
RULE = "https://istio.io/latest/docs/reference/config/networking/destination-rule/"
PROXY_CONFIG = "proxy.istio.io/config"
COOKIE = f"{RULE}#LoadBalancerSettings-ConsistentHashLB-HTTPCookie"


@SECTION.cause(
    "C42",
    "A VirtualService removes or overwrites the key's header before Envoy hashes it",
    symptom="sessions move (removed), or all of them land on one pod (overwritten)",
    evidence="headers.request.remove or headers.request.set of the VirtualService names the key, and so does Envoy's route",
    fix="do not change that header in the VirtualService",
    reference="https://istio.io/latest/docs/reference/config/networking/virtual-service/#Headers",
)
def header_altered(situation: Situation) -> Iterator[Hit]:
    name = (situation.key.name or "").lower()
    for client, view in situation.readable():
        route = view.route
        if route is None or situation.key.type != "header":
            continue
        values = [value for header, value in route.headers_set if header == name]
        if name not in route.headers_removed and not values:
            continue
        change = "removed" if name in route.headers_removed else f"set to {values[0]}"
        items = [(proxy_name(situation, client), f"request header {name} on the route", change)]
        rule = route_in_force(situation, client)
        if rule is None:
            maker = f"VirtualService {route.rule}, which could not be read, or an EnvoyFilter" if route.rule else "for example an EnvoyFilter"
            yield Hit(evidence(*items), manual(f"Find and remove what changes the header {name}: {maker}."))
            continue
        items.append((label("VirtualService", rule), "spec.http[].headers.request", change))
        text = (
            f"In {label('VirtualService', rule)}, take {name} out of headers.request, at the route or its destination, or hash on a header that it leaves "
            f"as it is. All requests of these routes then carry the caller's own {name}: make sure that the application may trust it."
        )
        yield Hit(evidence(*items), manual(text))


@SECTION.cause(
    "C45",
    "The hashed header is a tracing header with a new value in each request, which identifies requests, not sessions",
    symptom="sessions move across all pods; a test that repeats the same value sticks",
    evidence="the rule, or the key of the check, names a tracing header; Envoy or the application sets a new value in each request",
    fix="hash on a value that a caller keeps for all requests of a session",
    reference="https://istio.io/latest/docs/tasks/observability/distributed-tracing/overview/",
)
def tracing_header(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.readable()):
        policy = policy_in(settings_of(situation, rule))
        if policy is None or not is_tracing_header(policy):
            continue
        items = (
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer.consistentHash", f"httpHeaderName: {policy.name}"),
            ("requests", "key", str(situation.key)),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        )
        if not policy.matches(situation.key):
            yield Hit(evidence(*items), set_hash(situation, client, view, replaced=policy), situation.severity)
        else:
            fix = manual(f"Use a header other than {policy.name} in {label('DestinationRule', rule)}: one whose value callers keep for a session.")
            yield Hit(evidence(*items), fix, "warning" if situation.expected else "info")


@SECTION.cause(
    "C41",
    "The rule hashes on a name that is almost, but not exactly, the one in the requests",
    symptom="sessions move",
    evidence="the hash policy of Envoy's route has a name that differs from the key's by a letter or a dash",
    fix="use the same name in both",
    reference=f"{RULE}#LoadBalancerSettings-ConsistentHashLB",
)
def mistyped(situation: Situation) -> Iterator[Hit]:
    for client, view, rule in with_rule(situation, situation.not_hashing()):
        policy = policy_in(settings_of(situation, rule))
        if policy is None or not is_nearly_key(policy, situation.key) or policy.matches(situation.key):
            continue
        items = (
            (label("DestinationRule", rule), "spec.trafficPolicy.loadBalancer.consistentHash", policy.name),
            ("requests", situation.key.type, situation.key.name),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        )
        yield Hit(evidence(*items), set_hash(situation, client, view, replaced=policy))


@SECTION.cause(
    "C40",
    "A session ID is empty, and Envoy does not hash an empty cookie",
    symptom="only sessions without a value move",
    evidence="the key is a cookie, and the session that moved has an empty ID",
    fix="set a value for every session before its first request",
    reference="https://github.com/envoyproxy/envoy/blob/main/source/common/http/hash_policy.cc",
)
def empty_value(situation: Situation) -> Iterator[Hit]:
    if situation.verdict is None or situation.key.type != "cookie" or situation.key.issued:
        return
    for fate in situation.verdict.fates:
        if fate.id == "" and fate.moved:
            yield Hit(
                evidence(("session ''", "pods", fate.pods.keys()), ("requests", f"cookie {situation.key.name}", "empty")),
                manual(f"Set a value in the cookie {situation.key.name} of every request; find out why the application sends none."),
            )


def _issued(situation: Situation) -> Iterator[tuple[Client, HashPolicy]]:
    """Clients that expect a cookie in the response, with the hash policy of their route for it."""
    for client, view in situation.readable() if situation.key.issued and situation.moved() else ():
        for policy in view.route.hash_policies if view.route else ():
            if policy.matches(situation.key):
                yield client, policy


def _moved_once(trace: Trace) -> bool:
    """Whether only the first request, which had no cookie yet, landed on another pod."""
    return trace.moves == 1 and trace.runs[0].first == trace.runs[0].last and len(trace.runs) == 2


def _traces(situation: Situation) -> list[Trace]:
    return [trace for entry in situation.window.client_windows for trace in entry.traces if trace.moves] if situation.window else []


@SECTION.cause(
    "C43",
    "The rule's httpCookie has no ttl: Envoy issues no cookie, and a client without a cookie has none to send",
    symptom="sessions of new clients move",
    evidence="the rule's httpCookie has no ttl, and neither has the hash policy of Envoy's route",
    fix="if nobody issues the cookie, set httpCookie.ttl: 0s to let Envoy issue one; if the application does, hash on a cookie of another name with ttl: 0s",
    reference=COOKIE,
)
def without_ttl(situation: Situation) -> Iterator[Hit]:
    for client, policy in _issued(situation):
        cookie = _cookie_of(situation, client, client.view) if client.view else {}
        if not cookie or policy.ttl is not None or all(_moved_once(trace) for trace in _traces(situation)):
            continue
        items = (
            ("DestinationRule in force", "consistentHash.httpCookie", cookie),
            (proxy_name(situation, client), "ttl of the hash policy", policy.ttl),
        )
        fix = manual(
            f"Find out who issues the cookie {situation.key.name}. If nobody does, set httpCookie.ttl: 0s in the rule, and Envoy issues it. If the application "
            "does, hash on a cookie of another name with ttl: 0s: Envoy does not replace a cookie that the application sets."
        )
        yield Hit(evidence(*items), fix)


def _cookie_of(situation: Situation, client: Client, view: ProxyView) -> JsonDict:
    """The httpCookie in force where the client's route leads."""
    parts = cluster_parts(view.cluster.name) if view.cluster else None
    if parts is None:
        return {}
    settings = cluster_balancer(merged_in_force(situation, client, view), Destination(parts[2], parts[0], parts[1]))
    return (settings.get("consistentHash") or {}).get("httpCookie") or {}


@SECTION.cause(
    "C63",
    "The application issues the cookie after the first request has landed, and the cookie's hash selects another pod",
    symptom="each session moves once, with its second request",
    evidence="no session moved after its second request; Envoy does not issue the cookie",
    fix="use a separate cookie, with httpCookie.ttl: 0s, that Envoy issues, or store session data where all pods can read it",
    reference=COOKIE,
)
def application_issues(situation: Situation) -> Iterator[Hit]:
    traces = _traces(situation)
    for client, policy in _issued(situation):
        if policy.ttl is None and traces and all(_moved_once(trace) for trace in traces):
            items = (
                ("sessions", "moved with the second request, of those that moved", f"{len(traces)} of {len(traces)}"),
                (proxy_name(situation, client), "ttl of the hash policy", policy.ttl),
            )
            yield Hit(
                evidence(*items),
                manual(f"Hash on a cookie with a name other than {situation.key.name}, with ttl: 0s, which Envoy issues with the first response."),
            )


@SECTION.cause(
    "C44",
    "All requests have the same source address: the gateway uses that of the last proxy or NAT in front of it",
    symptom="everything that comes through one load balancer, proxy or NAT lands on one pod",
    evidence="the rule hashes on the source address, and requests of many sources (X-Forwarded-For) through the gateway all landed on one pod",
    fix="set the number of proxies in front of the gateway (numTrustedProxies), or hash on a header or cookie",
    reference="https://istio.io/latest/docs/ops/configuration/traffic-management/network-topologies/",
)
def one_source(situation: Situation) -> Iterator[Hit]:
    via, pods = situation.target.via, sorted({pod for fate in situation.verdict.fates for pod in fate.pods}) if situation.verdict else []
    sources = len(situation.verdict.fates) if situation.verdict else 0
    if via is None or situation.key.type != "source_ip" or sources < 2 or len(pods) != 1 or len(situation.membership.ready()) < 2:
        return
    gateways = situation.gateway_pods()
    for client, view in situation.readable():
        if not view.balances_by(situation.key):
            continue
        items: list[Item] = [
            ("requests", "sources (X-Forwarded-For)", sources),
            ("responses", "pods", pods),
            (proxy_name(situation, client), "hash policy of the route", policies_of(view)),
        ]
        settings = [(f"Pod {named(pod)}", f"metadata.annotations['{PROXY_CONFIG}']", _proxy_config(pod)) for pod in gateways[:1]]
        fix = manual(
            f"Set numTrustedProxies to the number of proxies in front of gateway {via.address}, in gatewayTopology of the annotation {PROXY_CONFIG} of its "
            "pods. It applies to everything behind that gateway, and with too high a number callers can forge their address."
        )
        yield Hit(evidence(*items, *settings), fix, "warning")
        return


def _proxy_config(pod: JsonDict) -> str | None:
    return (pod["metadata"].get("annotations") or {}).get(PROXY_CONFIG)
