# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue on states made by hand: those that the lab can't produce, and odd objects. The rest is produced on the lab.

Every state here is synthetic. Where it comes from stands with the cause it is for (C(synthetic) in the catalogue).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._causes import CATALOGUE, SECTIONS, Client, Situation, find_causes
from ansible_collections.meshops.istio.plugins.module_utils._causes._objects import covers, exported, hash_on, workload_of
from ansible_collections.meshops.istio.plugins.module_utils._causes.protocol import protocol
from ansible_collections.meshops.istio.plugins.module_utils._model import Facts, Finding, HashPolicy, JsonDict, Key, ProxyView, Target
from ansible_collections.meshops.istio.plugins.module_utils._verdict import judge
from simulation import KEY, Balancer, Truth, address, ring, window

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
    clients = tuple(Client(entry.client, tuple(view(each) for each in entry.views())) for entry in seen.evidence)
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


def test_a_rule_that_has_not_arrived_is_told_from_one_that_is_wrong() -> None:
    """C17: the objects are right, and the Envoy knows nothing of them."""
    found = find_causes(situation(HEALTHY, view=without_rule))
    assert ids(found)[:1] == ["C17"]
    assert found[0].fix.kind == "manual"
    assert "proxy-status test-0.sample" in found[0].fix.body


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
        texts = (cause.title, cause.symptom, cause.seen, cause.cure)
        assert all(text and not text.endswith(".") and "|" not in text for text in texts), cause.id


# -- the ways of Istio that the causes go by --


@pytest.mark.parametrize(
    ("host", "namespace", "covered"),
    [
        ("nginx-service", "sample", True),
        ("nginx-service", "other", False),
        ("nginx-service.sample", "sample", False),
        ("nginx-service.sample.svc.cluster.local", "other", True),
        ("*.sample.svc.cluster.local", "other", True),
        ("*.other.svc.cluster.local", "other", False),
        ("*", "istio-system", True),
    ],
)
def test_a_host_means_what_istio_takes_it_for(host: str, namespace: str, covered: bool) -> None:
    assert covers(host, namespace, FQDN) is covered


@pytest.mark.parametrize(("to", "seen"), [(None, True), (["*"], True), (["."], False), (["client"], True), (["other"], False)])
def test_a_rule_is_exported_to_a_namespace_or_not(to: Any, seen: bool) -> None:
    assert exported(rule(**({"exportTo": to} if to else {})), "client") is seen


@pytest.mark.parametrize(
    ("port", "expected"),
    [({"name": "http-web"}, "http"), ({"name": "web"}, ""), ({"name": "tcp-web", "appProtocol": "http"}, "http"), ({"name": "https"}, "https"), ({}, "")],
)
def test_a_port_is_taken_for_what_its_name_says(port: JsonDict, expected: str) -> None:
    assert protocol(port) == expected


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
    assert hash_on(key, old, nulls=True)["simple"] is None


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
