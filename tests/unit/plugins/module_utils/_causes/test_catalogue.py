# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue on states made by hand: those that the lab can't produce, and odd objects. The rest is produced on the lab.

Every state here is synthetic. Where it comes from stands with the cause it is for (C(synthetic) in the catalogue).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._causes import CATALOGUE, SECTIONS, Client, Situation, find_causes
from ansible_collections.meshops.istio.plugins.module_utils._causes._fixes import difference, hash_on
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import workload_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Facts, Finding, HashPolicy, JsonDict, Key, ProxyView, Target
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Identification
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from simulation import KEY, Balancer, Truth, address, at_random, flipping, ring, weighted, window

FQDN = "nginx-service.sample.svc.cluster.local"
TARGET = Target("sample", "nginx-service", 80, "http", "nginx-service")
PODS = ("pod-1", "pod-2", "pod-3", "pod-4")


def rule(**spec: Any) -> JsonDict:
    meta = {"name": "nginx-destinationrule", "namespace": "sample", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": {"host": "nginx-service", **spec}}


RULE = rule(trafficPolicy={"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}})
SERVICE = {"metadata": {"name": "nginx-service", "namespace": "sample"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]}}
CLIENT_POD = {
    "metadata": {"name": "test-0", "namespace": "sample", "labels": {"app": "test"}},
    "spec": {"containers": [{"name": "curl"}, {"name": "istio-proxy"}]},
}


def facts(rules: Sequence[JsonDict] = (RULE,), istiod: str = "1.31.0", service: JsonDict | None = None) -> Facts:
    return Facts(
        services={("sample", "nginx-service"): service or SERVICE},
        namespaces={"sample": {"metadata": {"name": "sample", "labels": {"istio-injection": "enabled"}}}},
        rules={"DestinationRule": tuple(rules)},
        pods={("sample", "test-0"): CLIENT_POD},
        versions={"istiod": istiod},
    )


def situation(truth: Truth, known: Facts | None = None, view: Callable[[ProxyView], ProxyView] = lambda view: view) -> Situation:
    """What a check of this truth would hand to the catalogue, with a change to what the Envoys said."""
    seen = window(truth)
    clients = tuple(Client(entry.client, tuple(view(each) for each in entry.views())) for entry in seen.client_windows)
    return Situation(truth.key, TARGET, known or facts(), clients, seen.after, seen, judge(seen))


def ids(found: Sequence[Finding]) -> list[str]:
    return [finding.id for finding in found]


HEALTHY = Truth(history=((0, PODS),))


def without_rule(view: ProxyView) -> ProxyView:
    assert view.route is not None
    assert view.cluster is not None
    return replace(view, route=replace(view.route, hash_policies=()), cluster=replace(view.cluster, lb_policy="LEAST_REQUEST", rule=None))


def test_a_healthy_mesh_has_no_finding() -> None:
    assert find_causes(situation(HEALTHY)) == []


def ring_of(pods: tuple[str, ...]) -> Balancer:
    """A balancer whose ring knows only these pods, whatever there is."""
    return Balancer(lambda sessions, _hosts, chance: ring.keyed(sessions, pods, chance), lambda count, _hosts, chance: chance.choices(pods, k=count))


def test_a_ring_that_was_not_rebuilt_is_told_by_the_ring_that_fits() -> None:
    """C58 by istio #60312: the ring still holds three of four pods."""
    found = find_causes(situation(replace(HEALTHY, balancer=ring_of(PODS[:3]))))
    assert ids(found)[:1] == ["C58"]
    assert (found[0].severity, found[0].evidence[0].value) == ("error", address(PODS[3]))


def test_a_model_that_does_not_fit_is_no_stale_ring() -> None:
    """Sessions that stick by another function than the ring's: nothing is said of a ring."""
    modulo = Balancer(lambda sessions, _hosts, _chance: [PODS[int(session.rpartition("-")[2]) % 3] for session in sessions])
    assert "C58" not in ids(find_causes(situation(replace(HEALTHY, balancer=modulo))))


def test_everything_on_one_pod_is_no_stale_ring() -> None:
    assert "C58" not in ids(find_causes(situation(replace(HEALTHY, balancer=ring_of(PODS[:1])))))


def received(time: str) -> Callable[[ProxyView], ProxyView]:
    """An Envoy without the rule, and when it was last sent route and cluster."""

    def view(known: ProxyView) -> ProxyView:
        old = without_rule(known)
        assert old.route is not None
        assert old.cluster is not None
        return replace(old, route=replace(old.route, updated=time), cluster=replace(old.cluster, updated=time))

    return view


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-01-01T09:59:00.242Z", ["C17"]),
        ("2026-01-01T09:59:58.242Z", []),
        ("2026-01-01T10:00:01.242Z", []),
        ("", []),
        ("yesterday", []),
    ],
)
def test_a_rule_that_has_not_arrived_is_told_by_what_envoy_last_received(time: str, expected: list[str]) -> None:
    """C17: the objects are right, and what the Envoy has is older than their last change. Without that proof nothing is said."""
    changed = {**RULE, "metadata": {**RULE["metadata"], "managedFields": [{"time": "2026-01-01T09:00:00Z"}, {"time": "2026-01-01T10:00:00Z"}]}}
    found = find_causes(situation(HEALTHY, facts((changed,)), received(time)))
    assert ids(found)[:1] == expected
    assert not found or (found[0].fix.kind == "manual" and "istioctl proxy-status" in found[0].fix.body)


def test_a_rule_made_from_a_gateways_policy_is_named() -> None:
    def made(view: ProxyView) -> ProxyView:
        assert view.cluster is not None
        return replace(
            without_rule(view), cluster=replace(view.cluster, lb_policy="LEAST_REQUEST", rule="sample/nginx-service~istio-autogenerated-k8s-gateway")
        )

    found = find_causes(situation(HEALTHY, facts(istiod="1.30.3"), made))
    assert "C15" in ids(found)


@pytest.mark.parametrize(
    ("proxy", "istiod", "label", "expected"),
    [
        ("1.31.0", "1.31.0", None, []),
        ("1.31.0", None, None, []),
        ("1.30.0", "1.31.0", None, ["A1"]),
        ("1.30.1", "1.30.1", None, []),
        ("1.30.3", "1.30.3", "waypoint", ["A2"]),
        ("1.31.0", "1.31.0", "waypoint", []),
        ("1.30.3", "1.30.3", "none", []),
        ("1.28.1", "1.31.0", None, ["A3"]),
        ("1.29.1", "1.31.0", None, []),
        ("hash/1.40.0/Clean/RELEASE/BoringSSL", "1.31.0", None, []),
    ],
)
def test_versions_that_are_known_for_something_are_named(proxy: str, istiod: Any, label: str | None, expected: list[str]) -> None:
    service = {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"istio.io/use-waypoint": label} if label else {}}}
    found = find_causes(situation(HEALTHY, facts(istiod=istiod, service=service), lambda view: replace(view, proxy_version=proxy)))
    assert ids(found) == expected
    assert {finding.severity for finding in found} <= {"warning"}


def test_nobody_is_told_of_a_rule_that_nobody_wants() -> None:
    """A service that is not to be sticky has no rule, and that is no error."""
    seen = situation(HEALTHY, facts(rules=()), without_rule)
    assert [(finding.id, finding.severity) for finding in find_causes(seen)] == [("C10", "error")]
    look = replace(seen, window=None, verdict=None, expected=False)
    assert [(finding.id, finding.severity) for finding in find_causes(look)] == [("C10", "info")]


def test_errors_come_before_warnings() -> None:
    seen = situation(HEALTHY, facts(rules=()), lambda view: replace(without_rule(view), proxy_version="1.30.0"))
    assert ids(find_causes(seen)) == ["C10", "A1"]


def test_every_entry_is_whole() -> None:
    assert len({cause.id for cause in CATALOGUE}) == len(CATALOGUE)
    assert all(section.causes and section.title for section in SECTIONS)
    for cause in CATALOGUE:
        assert cause.reference.startswith("https://"), cause.id
        texts = (cause.title, cause.symptom, cause.evidence, cause.fix)
        assert all(text and not text.endswith(".") and "|" not in text for text in texts), cause.id


# -- ambient mode, tunnels, networks, threads --


def ambient(waypoint: str | None = None, istiod: str = "1.30.3", routes: Sequence[JsonDict] = (), truth: Truth | None = None) -> Situation:
    """A client whose namespace is in ambient mode, and so has no sidecar; by the labels of Istio's pages on it."""
    service = {**SERVICE, "metadata": {**SERVICE["metadata"], "labels": {"istio.io/use-waypoint": waypoint} if waypoint else {}}}
    known = facts(istiod=istiod, service=service)
    known.namespaces["sample"] = {"metadata": {"name": "sample", "labels": {"istio.io/dataplane-mode": "ambient"}}}
    known.rules["VirtualService"] = tuple(routes)
    seen = situation(truth or replace(HEALTHY, balancer=at_random), known)
    return replace(seen, clients=tuple(Client(replace(client.pod, sidecar=False), ()) for client in seen.clients))


ITSELF = {
    "metadata": {"name": "by-waypoint", "namespace": "sample"},
    "spec": {"hosts": ["nginx-service"], "http": [{"route": [{"destination": {"host": "nginx-service"}}]}]},
}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (ambient(), ["C06"]),
        (ambient("none"), ["C06"]),
        (ambient("waypoint"), ["C23"]),
        (ambient("waypoint", routes=(ITSELF,)), []),
        (ambient("waypoint", istiod="1.31.0"), []),
        (ambient("waypoint", truth=HEALTHY), ["A2"]),
    ],
)
def test_in_ambient_mode_a_waypoint_must_hash(seen: Situation, expected: list[str]) -> None:
    found = find_causes(seen)
    assert ids(found) == expected
    for finding in found:
        assert all(item.value for item in finding.evidence)
    if expected == ["C06"]:
        assert ("Namespace sample", "metadata.labels['istio.io/dataplane-mode']", "ambient") in shown(found[0])
        assert "istio.io/use-waypoint=waypoint" in found[0].fix.body
    if expected == ["C23"]:
        assert found[0].fix.kind == "yaml"
        assert FQDN in found[0].fix.body


def shown(finding: Finding) -> list[tuple[str, str, str]]:
    return [(item.source, item.field, item.value) for item in finding.evidence]


def test_a_pod_that_is_not_in_ambient_mode_lacks_a_sidecar() -> None:
    """A pod's own label goes before its namespace's."""
    seen = ambient()
    seen.facts.pods["sample", "test-0"] = {**CLIENT_POD, "metadata": {**CLIENT_POD["metadata"], "labels": {"istio.io/dataplane-mode": "none"}}}
    assert ids(find_causes(seen)) == ["C01"]


def by_tunnel(view: ProxyView) -> ProxyView:
    return replace(view, hosts=tuple(replace(host, hbone=True) for host in view.hosts))


def test_two_ways_to_the_same_pods_are_named() -> None:
    """C62: the tunnel's address is another key of the ring."""
    seen = situation(replace(HEALTHY, clients=2))
    one, two = seen.clients
    mixed = replace(seen, clients=(one, replace(two, views=tuple(by_tunnel(view) for view in two.views))))
    (found,) = find_causes(mixed)
    assert (found.id, found.severity) == ("C62", "warning")
    assert {item.value for item in found.evidence} == {"direct", "HBONE tunnel"}
    assert find_causes(replace(seen, clients=tuple(replace(client, views=tuple(map(by_tunnel, client.views))) for client in seen.clients))) == []


def labelled(network: str) -> JsonDict:
    return {"metadata": {"labels": {"topology.istio.io/network": network}, "namespace": "sample"}, "spec": {}}


@pytest.mark.parametrize(("own", "expected"), [("east", ["C55"]), ("west", [])])
def test_a_gateway_in_the_place_of_the_pods_is_named(own: str, expected: list[str]) -> None:
    """C55: Envoy has the address of the other network's gateway, and nothing else."""
    known = facts()
    known.pods["sample", "test-0"] = {**CLIENT_POD, "metadata": {**CLIENT_POD["metadata"], "labels": {"topology.istio.io/network": own}}}
    known.pods.update({("sample", pod): labelled("west") for pod in PODS})

    def by_gateway(view: ProxyView) -> ProxyView:
        return replace(view, hosts=(replace(view.hosts[0], address="172.18.0.9:15443"),))

    found = find_causes(situation(replace(HEALTHY, balancer=at_random), known, by_gateway))
    assert ids(found) == expected
    assert not expected or "172.18.0.9:15443" in [item.value for item in found[0].evidence]


def threads(sessions: tuple[str, ...], hosts: tuple[str, ...], chance: random.Random) -> Sequence[str]:
    """Two worker threads, of which one has missed a pod; which of them takes a connection is chance."""
    whole, rest = ring.keyed(sessions, hosts, chance), ring.keyed(sessions, hosts[:3], chance)
    return [chance.choice(pods) for pods in zip(whole, rest, strict=True)]


def test_threads_that_disagree_are_told_by_the_two_rings_that_fit() -> None:
    """C59 by envoy #45055."""
    (found,) = find_causes(situation(replace(HEALTHY, balancer=Balancer(threads))))
    assert (found.id, found.severity) == ("C59", "error")
    assert ("responses", "fit the ring of all hosts, or the one that lacks", address(PODS[3])) in shown(found)


@pytest.mark.parametrize("balancer", [at_random, flipping(0.05), weighted(0.5)])
def test_other_moves_are_no_two_rings(balancer: Balancer) -> None:
    assert "C59" not in ids(find_causes(situation(replace(HEALTHY, balancer=balancer))))


def test_a_client_that_follows_no_ring_is_told_by_one_that_does() -> None:
    """C59: the same hosts and rules, and each client sticks, to pods of its own."""
    seen = situation(replace(HEALTHY, clients=2))
    assert seen.window is not None
    one, two = seen.window.client_windows
    swapped = tuple(trace.mapped(dict(zip(PODS, PODS[1:] + PODS[:1], strict=True))) for trace in two.traces)
    window_seen = replace(seen.window, client_windows=(one, replace(two, traces=swapped)))
    (found,) = find_causes(replace(seen, window=window_seen, verdict=judge(window_seen)))
    assert found.id == "C59"
    assert ("sessions", "follow the ring from sample/test-0, and not from sample/test-1") in [(item.source, item.field) for item in found.evidence]


# -- what else must be so for a cause to be named --


def statuses(**ready: bool) -> JsonDict:
    return {"containerStatuses": [{"name": name.replace("_", "-"), "ready": value, "state": {"running": {}}} for name, value in ready.items()]}


@pytest.mark.parametrize(
    ("status", "answers", "expected"),
    [
        (statuses(curl=True, istio_proxy=False), False, ["C07"]),
        (statuses(curl=True, istio_proxy=True), False, []),
        (statuses(curl=True, istio_proxy=False), True, []),
        ({"initContainerStatuses": statuses(istio_proxy=False)["containerStatuses"]}, False, ["C07"]),
    ],
)
def test_a_sidecar_that_is_not_ready_and_knows_nothing_is_named(status: JsonDict, answers: bool, expected: list[str]) -> None:
    known = facts()
    known.pods["sample", "test-0"] = {**CLIENT_POD, "status": status}
    seen = situation(HEALTHY, known)
    silent = replace(seen, clients=tuple(replace(client, views=()) for client in seen.clients))
    assert ids(find_causes(seen if answers else silent)) == expected


def heavier(view: ProxyView) -> ProxyView:
    return replace(view, hosts=(replace(view.hosts[0], weight=3), *view.hosts[1:]))


def test_weights_matter_on_a_ring_only() -> None:
    (found,) = find_causes(situation(HEALTHY, view=heavier))
    assert (found.id, found.severity) == ("C60", "warning")

    assert '"maglev": {"tableSize": 65537}' in found.fix.body
    for_a_port = rule(trafficPolicy={"portLevelSettings": [{"port": {"number": 80}, **RULE["spec"]["trafficPolicy"]}]})
    (found,) = find_causes(situation(HEALTHY, facts((for_a_port,)), heavier))
    assert (found.id, found.fix.kind) == ("C60", "manual")

    def table(view: ProxyView) -> ProxyView:
        assert view.cluster is not None
        return replace(heavier(view), cluster=replace(view.cluster, lb_policy="MAGLEV"))

    assert find_causes(situation(HEALTHY, view=table)) == []


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, ["C51"]), (50.0, ["C51"]), (80.0, ["C52", "C51"])])
def test_panic_is_told_from_an_ejection(threshold: float, expected: list[str]) -> None:
    def out(view: ProxyView) -> ProxyView:
        assert view.cluster is not None
        first = replace(view.hosts[0], healthy=False, health_flags="/failed_outlier_check")
        return replace(view, hosts=(first, *view.hosts[1:]), cluster=replace(view.cluster, panic=threshold))

    assert ids(find_causes(situation(HEALTHY, view=out))) == expected


@pytest.mark.parametrize(("age", "expected"), [(None, []), (5.0, []), (600.0, ["C64"])])
def test_pods_that_envoy_should_know_by_now_are_named(age: float | None, expected: list[str]) -> None:
    """And one that is known by another of its addresses is not."""
    seen = situation(HEALTHY, view=lambda view: replace(view, hosts=view.hosts[1:]))
    seen = replace(seen, membership=replace(seen.membership, age=age))
    assert ids(find_causes(seen)) == expected
    missing = seen.membership.backends[0]
    both = replace(seen.membership, backends=(*seen.membership.backends, replace(missing, address="[fd00::9]:8080")))
    assert ids(find_causes(replace(situation(HEALTHY), membership=both))) == []


@pytest.mark.parametrize(("header", "expected"), [("X-Request-Id", ["C45"]), ("x-other-header", ["C18"])])
def test_a_header_of_tracing_is_told_from_another(header: str, expected: list[str]) -> None:
    hashing = rule(trafficPolicy={"loadBalancer": {"consistentHash": {"httpHeaderName": header}}})

    def other(view: ProxyView) -> ProxyView:
        assert view.route is not None
        return replace(view, route=replace(view.route, hash_policies=(HashPolicy("header", header),)))

    assert ids(find_causes(situation(replace(HEALTHY, balancer=at_random), facts((hashing,)), other))) == expected


def service_entry(**spec: Any) -> JsonDict:
    return {"metadata": {"name": "legacy", "namespace": "sample"}, "spec": {"hosts": ["legacy.example.com"], **spec}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"resolution": "NONE"}, "C34"),
        ({}, "C34"),
        ({"resolution": "DNS_ROUND_ROBIN"}, "C34"),
        ({"resolution": "DNS", "endpoints": [{"address": FQDN}]}, "C34"),
        ({"resolution": "DNS", "endpoints": [{"address": "nginx-pods.sample.svc.cluster.local"}]}, "C24"),
        ({"resolution": "STATIC", "endpoints": [{"address": "10.0.0.1"}]}, "C24"),
        ({"resolution": "NONE", "hosts": ["other.example.com"]}, "C24"),
    ],
)
def test_a_service_entry_without_pods_is_told_from_another_host(spec: JsonDict, expected: str) -> None:
    route = {
        "metadata": {"name": "nginx-virtualservice", "namespace": "sample"},
        "spec": {"hosts": ["nginx-service"], "http": [{"route": [{"destination": {"host": "legacy.example.com"}}]}]},
    }
    known = facts()
    known.rules.update(ServiceEntry=(service_entry(**spec),), VirtualService=(route,))

    def elsewhere(view: ProxyView) -> ProxyView:
        assert view.route is not None
        return replace(view, cluster=None, route=replace(view.route, clusters=(("outbound|80||legacy.example.com", 100),)))

    first = find_causes(situation(replace(HEALTHY, balancer=at_random), known, elsewhere))[0]
    assert first.id == expected
    assert expected != "C34" or ("patch virtualservice" in first.fix.body and f'"host": "{FQDN}"' in first.fix.body)


# -- how a rule is put right --


@pytest.mark.parametrize(
    ("key", "chosen"),
    [
        (Key("header", "x"), {"httpHeaderName": "x"}),
        (Key("cookie", "c"), {"httpCookie": {"name": "c"}}),
        (Key("query", "q"), {"httpQueryParameterName": "q"}),
        (Key("source_ip", None), {"useSourceIp": True}),
    ],
)
def test_settings_for_a_key_keep_the_algorithm(key: Key, chosen: JsonDict) -> None:
    old = {"simple": "RANDOM", "localityLbSetting": {"enabled": False}, "consistentHash": {"maglev": {"tableSize": 7}}}
    assert hash_on(key, old) == {"localityLbSetting": {"enabled": False}, "consistentHash": {"maglev": {"tableSize": 7}, **chosen}}
    assert difference(old, hash_on(key, old)) == {"simple": None, "consistentHash": chosen}


def test_a_pods_maker_is_its_deployment() -> None:
    owner = [{"kind": "ReplicaSet", "name": "shop-5d9c7b8f4", "controller": True}]
    pod = {"metadata": {"labels": {"pod-template-hash": "5d9c7b8f4"}, "ownerReferences": owner}}
    assert workload_of(pod) == ("deployment", "shop")
    assert workload_of({"metadata": {}}) is None


# -- odd objects cost an answer, never the verdict --

odd = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
)


@settings(max_examples=150)
@given(spec=odd, policy=odd)
def test_odd_objects_are_survived(spec: Any, policy: Any) -> None:
    known = facts(rules=(RULE, {"metadata": {"name": "odd", "namespace": "sample"}, "spec": spec}, rule(trafficPolicy=policy)))
    known.rules.update({kind: ({"metadata": {"name": "odd", "namespace": "sample"}, "spec": spec},) for kind in ("VirtualService", "Sidecar", "EnvoyFilter")})
    look = replace(situation(replace(HEALTHY, sessions=20, rounds=2), known, without_rule), window=None, verdict=None)
    assert all(finding.evidence and finding.fix.body for finding in find_causes(look))


@pytest.mark.parametrize(("key", "expected"), [(KEY, ["C30"]), (Key("source_ip", None), [])], ids=str)
def test_a_tcp_port_is_a_cause_only_for_a_key_that_it_does_not_have(key: Key, expected: list[str]) -> None:
    """The listener of such a port as in test__envoy_wide.py, which the lab's Envoy printed."""
    service = {"metadata": SERVICE["metadata"], "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "tcp", "port": 80}]}}
    by_source = rule(trafficPolicy={"loadBalancer": {"consistentHash": {"useSourceIp": True}}})

    def opaque(view: ProxyView) -> ProxyView:
        route = view.route and replace(view.route, protocol="tcp", hash_policies=(HashPolicy("source_ip", None),))
        return replace(view, route=route)

    truth = Truth(key=replace(key, own=key.type == "source_ip"), keyless=False, sessions=20, rounds=3)
    found = find_causes(situation(truth, facts([by_source], service=service), opaque))
    assert [finding.id for finding in found if finding.id == "C30"] == expected
    assert expected or not [finding for finding in found if finding.severity != "info"]


# -- who responds --


def answers(unknown: tuple[str, ...], **by_status: int) -> Situation:
    """Responses that name no pod of the service."""
    seen = situation(HEALTHY)
    assert seen.window is not None
    entries = tuple(
        replace(entry, traces=tuple(entry.traces[0].mapped({}) for _trace in entry.traces), tally=replace(entry.tally, by_status=Counter(by_status)))
        for entry in seen.window.client_windows
    )
    return replace(seen, window=replace(seen.window, client_windows=entries, identification=Identification(None, {}, unknown)))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (answers(("text/plain",), **{"200": 60}), ["F4"]),
        (answers(("front-1",), **{"200": 50, "503": 10}), ["F4"]),
        (answers((), **{"200": 60}), []),
        (answers(("", " "), **{"200": 60}), []),
        (answers(("no healthy upstream",), **{"503": 60}), []),
        (answers(("text/plain",)), []),
    ],
)
def test_only_what_names_something_else_is_said_to_do_so(seen: Situation, expected: list[str]) -> None:
    found = find_causes(seen)
    assert ids(found) == expected
    assert all("upstream" not in finding.fix.body for finding in found)
