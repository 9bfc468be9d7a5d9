# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The catalogue on meshes that people reported: what is named first, and what becomes of the printed fix."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace

import pytest
import yaml
from cart_mesh import FQDN, HASH, SERVICE, envoy, route, rule, situation, to

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import proxy_view
from ansible_collections.meshops.istio.plugins.module_utils._model import Finding, JsonDict, Key, Target
from harness import ROOT


def ids(found: Sequence[Finding]) -> list[str]:
    return [finding.id for finding in found if finding.severity != "info"]


def patched(fix_body: str) -> JsonDict | list[JsonDict]:
    """The body of a printed patch."""
    words = shlex.split(fix_body)
    assert words[:2] == ["kubectl", "-n"]
    assert words[3] == "patch"
    body: JsonDict | list[JsonDict] = json.loads(words[words.index("-p") + 1])
    return body


def test_a_mesh_that_hashes_has_no_finding() -> None:
    rules = [rule("cart", trafficPolicy=HASH)]
    assert find_causes(situation(envoy(rules), rules)) == []


# -- causes that nobody named --


SUBSET = {"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": HASH}


@pytest.mark.parametrize("by", [None, route(to())], ids=["no route", "a route without the subset"])
def test_a_hash_in_a_subset_that_no_route_leads_to(by: JsonDict | None) -> None:
    rules = [rule("cart", subsets=[SUBSET])]
    (found,) = find_causes(situation(envoy(rules, by=by), rules, [by] if by else []))
    assert found.id == "C65"
    assert "subset v1" in [item.value for item in found.evidence]
    assert patched(found.fix.body) == {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-cart-id"}}}}}
    assert found.fix.checked is not None


def test_a_route_to_a_subset_without_pods() -> None:
    rules = [rule("cart", trafficPolicy=HASH, subsets=[{"name": "stable", "labels": {"rollouts-pod-template-hash": "6fd44bcc96"}}])]
    by = route(to(subset="stable"))
    (found,) = find_causes(situation(envoy(rules, subset="stable", by=by, pods=0), rules, [by]))
    assert (found.id, found.severity, found.fix.kind) == ("C68", "error", "manual")
    assert "rollouts-pod-template-hash=6fd44bcc96" in [item.value for item in found.evidence]


def test_a_subset_of_one_pod_is_told_from_one_without_pods() -> None:
    rules = [rule("cart", trafficPolicy=HASH, subsets=[{"name": "stable", "labels": {"version": "v1"}}])]
    by = route(to(subset="stable"))
    (found,) = find_causes(situation(envoy(rules, subset="stable", by=by, pods=1), rules, [by]))
    assert (found.id, found.severity, found.fix.kind) == ("F3", "warning", "manual")


def test_a_subset_that_the_callers_own_rule_hides() -> None:
    rules = [rule("cart", trafficPolicy=HASH, subsets=[{"name": "v1", "labels": {"version": "v1"}}])]
    rules.append(rule("cart-pool", "till", trafficPolicy={"connectionPool": {"http": {"http2MaxRequests": 50}}}))
    by = route(to(subset="v1"))
    view = replace(envoy(rules, "till", "v1", by), cluster=None, hosts=())
    found = find_causes(situation(view, rules, [by], "till"))
    assert ids(found) == ["C69"]
    assert "till/cart-pool" in found[0].fix.body
    assert ("DestinationRule shop/cart", "v1") in [(item.source, item.value) for item in found[0].evidence]


def test_an_affinity_that_istio_does_not_read() -> None:
    service = {**SERVICE, "spec": {**SERVICE["spec"], "sessionAffinity": "ClientIP"}}
    (found,) = find_causes(situation(envoy([]), service=service))
    assert (found.id, found.severity, found.fix.kind) == ("C66", "error", "yaml")
    assert "httpHeaderName: x-cart-id" in found.fix.body
    # No key is invented where nobody named one.
    (found,) = find_causes(situation(envoy([]), service=service, key=Key("header", "user-session"), expected=False))
    assert (found.id, found.severity) == ("C66", "info")
    assert "useSourceIp: true" in found.fix.body
    assert "user-session" not in found.fix.body


def test_no_rule_is_printed_for_a_key_that_nobody_named() -> None:
    (found,) = find_causes(situation(envoy([]), key=Key("header", "user-session"), expected=False))
    assert (found.id, found.severity, found.fix.kind) == ("C10", "info", "manual")
    assert "user-session" not in found.fix.body


def test_an_alias_in_the_route() -> None:
    rules, by = [rule("cart", trafficPolicy=HASH)], route({"timeout": "5s", **to("cart-old")})
    view = envoy(rules, by=by)
    assert view.route is not None
    found = find_causes(situation(replace(view, route=replace(view.route, hash_policies=())), rules, [by]))
    assert ids(found) == ["C70"]
    test, change = patched(found[0].fix.body)
    assert test == {"op": "test", "path": "/metadata/resourceVersion", "value": "9"}
    assert change == {"op": "replace", "path": "/spec/http/0/route/0/destination/host", "value": FQDN}


def test_a_rule_for_other_workloads_that_hides_the_plain_one() -> None:
    rules = [rule("cart", trafficPolicy=HASH), rule("batch", "till", workloadSelector={"matchLabels": {"app": "batch"}}, trafficPolicy={})]
    (found,) = find_causes(situation(envoy(rules, "till"), rules, namespace="till"))
    assert (found.id, found.fix.kind) == ("C67", "manual")
    assert "shop/cart" in found.fix.body


def test_a_zone_that_is_left_out() -> None:
    spread = {**HASH["loadBalancer"], "localityLbSetting": {"distribute": [{"from": "*", "to": {"lab/zone-a/*": 100}}]}}
    rules = [rule("cart", trafficPolicy={"loadBalancer": spread})]
    pods = {
        ("shop", f"cart-{number}"): {"metadata": {"labels": {"istio-locality": f"lab.zone-{'a' if number < 2 else 'b'}"}}, "spec": {}} for number in range(4)
    }
    found = find_causes(situation(envoy(rules, pods=2), rules, pods=pods, age=600.0))
    assert ids(found) == ["C73"]
    assert "lab/zone-b" in found[0].fix.body
    # The same pods, without a distribution, are missing for another reason.
    plain = [rule("cart", trafficPolicy=HASH)]
    (found_plain,) = find_causes(situation(envoy(plain, pods=2), plain, pods=pods, age=600.0))
    assert (found_plain.id, found_plain.fix.kind) == ("C64", "manual")


def test_a_ring_that_envoy_refuses() -> None:
    """To recreate the client, as was advised, is an outage: no new Envoy starts with that cluster."""
    large = {"consistentHash": {"httpHeaderName": "x-cart-id", "ringHash": {"minimumRingSize": 10000000}}}
    rules = [rule("cart", trafficPolicy={"loadBalancer": large})]
    view = envoy(rules)
    assert view.cluster is not None
    stale = replace(view, cluster=replace(view.cluster, lb_policy="LEAST_REQUEST", rule=None))
    (found,) = find_causes(situation(stale, rules))
    assert (found.id, found.fix.kind) == ("C74", "manual")


@pytest.mark.parametrize(
    ("pod_labels", "labels", "expected"),
    [
        ({}, {"istio.io/rev": "1-28-2"}, "C71"),
        ({"istio.io/rev": "1-28-2"}, {}, "C71"),
        ({}, {"istio.io/rev": "default"}, "C01"),
        ({"istio.io/rev": "1-28-2"}, {"istio-injection": "enabled"}, "C01"),
        ({}, {}, "C01"),
    ],
)
def test_a_revision_that_nobody_serves(pod_labels: dict[str, str], labels: dict[str, str], expected: str) -> None:
    pod = {"metadata": {"name": "client", "namespace": "lane6", "labels": pod_labels}, "spec": {"containers": [{"name": "tools"}]}}
    rules = [rule("cart", trafficPolicy=HASH)]
    (found,) = find_causes(situation(None, rules, namespace="lane6", pod=pod, labels=labels, sidecar=False))
    assert (found.id, found.fix.kind) == (expected, "manual")


def test_where_only_another_revision_is_served_its_label_is_named() -> None:
    (found,) = find_causes(situation(None, namespace="lane", labels={}, sidecar=False, revisions=("canary",)))
    assert "istio.io/rev=canary" in found.fix.body


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ({"command": ["/bin/true"]}, "/bin/true"),
        ({"args": ["istio-iptables", "-p", "15001", "-i", "*", "-x", "10.96.0.0/12", "-b", "*"]}, "-x 10.96.0.0/12"),
        ({"args": ["istio-iptables", "-p", "15001", "-i", "172.16.0.0/12", "-x", "", "-b", "*"]}, "-i 172.16.0.0/12"),
        ({"args": ["istio-iptables", "-i", "*", "-x", "", "-o", "8000,9000"]}, "-o 8000,9000"),
        ({"args": ["istio-iptables", "-p", "15001", "-z", "15006", "-i", "*", "-x", "", "-b", "*"]}, None),
        ({}, None),
    ],
)
def test_requests_that_are_not_redirected(init: JsonDict, expected: str | None) -> None:
    spec = {"containers": [{"name": "tools"}, {"name": "istio-proxy"}], "initContainers": [{"name": "istio-init", **init}]}
    pod = {"metadata": {"name": "client", "namespace": "shop"}, "spec": spec}
    rules = [rule("cart", trafficPolicy=HASH)]
    found = find_causes(situation(envoy(rules), rules, pod=pod))
    assert [(finding.id, finding.evidence[0].value) for finding in found] == ([("C72", expected)] if expected else [])


def test_an_egress_entry_for_another_port_does_not_list_the_service() -> None:
    scope = {
        "metadata": {"name": "scope", "namespace": "shop", "resourceVersion": "3"},
        "spec": {"egress": [{"port": {"number": 9000, "protocol": "HTTP"}, "hosts": ["./*"]}]},
    }
    view = replace(envoy([]), route=None, cluster=None, hosts=())
    (found,) = find_causes(situation(view, sidecars=[scope]))
    assert found.id == "C05"
    assert "9000" in [item.value for item in found.evidence]
    assert patched(found.fix.body)[1] == {"op": "add", "path": "/spec/egress/-", "value": {"hosts": [f"shop/{FQDN}"]}}


# -- fixes that would harm, and are not printed --


@pytest.mark.parametrize(("space", "host"), [("shop", "*.shop.svc.cluster.local"), ("istio-system", "*.local"), ("istio-system", "*")])
def test_a_rule_that_other_services_live_by_is_not_changed(space: str, host: str) -> None:
    """A wildcard: to set the hash there would change the policy of every service. One for this service stands beside it."""
    policy = {"tls": {"mode": "ISTIO_MUTUAL"}, "loadBalancer": {"simple": "ROUND_ROBIN"}}
    wide = {**rule("all", space), "spec": {"host": host, "trafficPolicy": policy}}
    (found,) = find_causes(situation(envoy([wide]), [wide]))
    assert (found.id, found.fix.kind) == ("C18", "yaml")
    made = yaml.safe_load(found.fix.body)
    assert made["metadata"] == {"name": "cart-affinity", "namespace": space}
    assert made["spec"] == {"host": FQDN, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}, **HASH}}


def test_a_hash_that_works_is_not_replaced() -> None:
    rules = [rule("cart", trafficPolicy={"loadBalancer": {"consistentHash": {"httpHeaderName": "x-user"}}})]
    (found,) = find_causes(situation(envoy(rules), rules, key=Key("header", "authorization")))
    assert (found.id, found.fix.kind) == ("C18", "manual")
    assert "ends the affinity of all callers that send header x-user" in found.fix.body


def test_a_canary_is_not_ended() -> None:
    rules = [rule("cart", trafficPolicy=HASH)]
    view = envoy(rules, by=route(to()))
    assert view.route is not None
    weighted = replace(view, alike=False, route=replace(view.route, clusters=(("outbound|8000||a", 80), ("outbound|8000||b", 20))))
    found = find_causes(situation(weighted, rules, [route(to())], expected=False))
    assert next((finding.id, finding.severity, finding.fix.kind) for finding in found) == ("C56", "error", "manual")


def test_no_object_is_removed_where_two_rules_have_one_host() -> None:
    rules = [
        rule("a", trafficPolicy={"connectionPool": {"http": {"http2MaxRequests": 50}}}),
        rule("b", created="2026-02-01T00:00:00Z", trafficPolicy=HASH, subsets=[{"name": "v1", "labels": {"version": "v1"}}]),
    ]
    (found,) = find_causes(situation(envoy(rules), rules))
    assert found.id == "C13"
    assert "delete" not in found.fix.body
    assert shlex.split(found.fix.body)[:6] == ["kubectl", "-n", "shop", "patch", "destinationrule", "a"]


def test_a_mistyped_rule_stays_and_another_is_made() -> None:
    """It may be the rule of a service that this run did not read."""
    rules = [{**rule("cart-affinity"), "spec": {"host": "carts.shop.svc.cluster.local", "trafficPolicy": HASH}}]
    (found,) = find_causes(situation(envoy(rules), rules))
    assert (found.id, found.fix.kind) == ("C10", "yaml")
    assert "name: cart-affinity-2\n" in found.fix.body
    assert f"host: {FQDN}\n" in found.fix.body


def test_a_selector_that_keeps_a_rule_from_others_stays_where_they_have_another() -> None:
    selected = rule("cart-batch", workloadSelector={"matchLabels": {"app": "batch"}}, trafficPolicy=HASH)
    others = rule("cart", trafficPolicy={"tls": {"mode": "SIMPLE"}})
    (found,) = [entry for entry in find_causes(situation(envoy([others]), [others, selected])) if entry.id == "C14"]
    assert found.fix.kind == "manual"
    alone = find_causes(situation(envoy([]), [selected]))
    assert (alone[0].id, alone[0].fix.kind) == ("C14", "command")
    assert patched(alone[0].fix.body) == {"spec": {"workloadSelector": None}}


def test_a_fix_is_aimed_at_the_subset_and_at_the_rule_that_has_it() -> None:
    """The older rule has no subsets; Istio merges those of the newer one into it."""
    plain = {"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}
    rules = [rule("a", trafficPolicy=HASH), rule("b", created="2026-02-01T00:00:00Z", subsets=[plain])]
    by = route(to(subset="v1"))
    found = find_causes(situation(envoy(rules, subset="v1", by=by), rules, [by]))
    assert ids(found) == ["C22"]
    assert shlex.split(found[0].fix.body)[5] == "b"
    assert patched(found[0].fix.body)[1] == {
        "op": "add",
        "path": "/spec/subsets/0/trafficPolicy/loadBalancer",
        "value": {"consistentHash": {"httpHeaderName": "x-cart-id"}},
    }


def test_evidence_of_locality_is_what_was_read() -> None:
    """Where outlierDetection stands in a subset, or an annotation is the reason, that is said."""
    out = {"outlierDetection": {"consecutive5xxErrors": 5}}
    rules = [rule("cart", trafficPolicy=HASH, subsets=[{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": out}])]
    by = route(to(subset="v1"))
    view = envoy(rules, subset="v1", by=by)
    far = replace(view, hosts=tuple(replace(host, priority=number % 2) for number, host in enumerate(view.hosts)))
    (found,) = find_causes(situation(far, rules, [by]))
    assert found.id == "C53"
    assert found.evidence[-1].field == "subset v1: trafficPolicy.outlierDetection"
    plain = [rule("cart", trafficPolicy=HASH)]
    view = envoy(plain)
    far = replace(view, hosts=tuple(replace(host, priority=number % 2) for number, host in enumerate(view.hosts)))
    (found,) = find_causes(situation(far, plain, annotations={"networking.istio.io/traffic-distribution": "PreferClose"}))
    assert (found.evidence[-1].source, found.evidence[-1].value) == ("Namespace shop", "PreferClose")
    assert patched(found.fix.body) == {"spec": {"trafficPolicy": {"loadBalancer": {"localityLbSetting": {"enabled": False}}}}}
    (found,) = find_causes(situation(far, plain))
    assert found.fix.kind == "manual"
    assert "absent" not in [item.value for item in found.evidence]


def test_a_host_that_hashes_is_no_cause() -> None:
    """Its own rule was applied: what is left is not that no rule sets a hash."""
    other = {**rule("other"), "spec": {"host": "other.shop.svc.cluster.local", "trafficPolicy": HASH}}
    by = route(to("other"))
    view = replace(envoy([], by=by, host="other.shop.svc.cluster.local"), cluster=None)
    assert "C24" in [finding.id for finding in find_causes(situation(view, [], [by]))]
    assert "C24" not in [finding.id for finding in find_causes(situation(view, [other], [by]))]


def test_when_envoy_last_received_its_configuration_is_read_from_its_pages() -> None:
    """Recorded on the lab: with incremental updates, which are Istio's default, the pages have no version, but this time."""
    pages = {name: text.encode() for name, text in json.loads((ROOT / "tests/unit/fixtures/ring.json").read_text())["pages"].items()}
    view = proxy_view(Target("sample", "nginx-service", 80, "http", "nginx-service"), pages)
    assert view is not None
    assert view.route is not None
    assert view.cluster is not None
    assert (view.route.updated, view.cluster.updated) == ("2026-11-27T05:30:33.242Z", "2026-11-27T05:30:33.229Z")


# -- patches of other objects --

TWO_PORTS = {**SERVICE, "spec": {**SERVICE["spec"], "ports": [{"name": "http-web", "port": 8000}, {"name": "http-admin", "port": 9000}]}}


@pytest.mark.parametrize(
    ("by", "service", "kind"),
    [
        (route(to()), SERVICE, "command"),
        (route(to()), TWO_PORTS, "manual"),
        (route(to(), to("search", port={"number": 80})), SERVICE, "manual"),
    ],
)
def test_a_port_is_named_only_where_no_request_goes_elsewhere_by_it(by: JsonDict, service: JsonDict, kind: str) -> None:
    rules = [rule("cart", trafficPolicy={"portLevelSettings": [{"port": {"number": 8000}, **HASH}]})]
    view = envoy(rules, by=by)
    assert view.route is not None
    (found,) = find_causes(situation(replace(view, route=replace(view.route, hash_policies=())), rules, [by], service=service))
    assert (found.id, found.fix.kind) == ("C20", kind)
    if kind == "command":
        assert patched(found.fix.body)[1] == {"op": "add", "path": "/spec/http/0/route/0/destination/port", "value": {"number": 8000}}


@pytest.mark.parametrize(
    ("by", "kind"),
    [
        (route(to(subset="v1"), gateways=["edge"]), "command"),
        (route(to(subset="v1"), gateways=["edge"], hosts=[FQDN, "shop.example.com"]), "manual"),
        (route({"match": [{"uri": {"prefix": "/v1"}}], **to(subset="v1")}, to(subset="v0"), gateways=["edge"]), "manual"),
        (route({"fault": {"abort": {}}, **to(subset="v1")}, gateways=["edge"]), "manual"),
    ],
)
def test_a_route_comes_onto_the_mesh_only_if_it_does_nothing_else(by: JsonDict, kind: str) -> None:
    rules = [rule("cart", subsets=[SUBSET, {"name": "v0"}])]
    found = [finding for finding in find_causes(situation(envoy(rules), rules, [by])) if finding.id == "C25"]
    assert [finding.fix.kind for finding in found] == [kind]
    if kind == "command":
        assert patched(found[0].fix.body) == {"spec": {"gateways": ["edge", "mesh"]}}


@pytest.mark.parametrize(
    ("patches", "kind"),
    [
        ([{"applyTo": "CLUSTER", "match": {"cluster": {"name": f"outbound|8000||{FQDN}"}}, "patch": {}}, {"applyTo": "LISTENER", "patch": {}}], "command"),
        ([{"applyTo": "CLUSTER", "match": {"cluster": {"name": f"outbound|8000||{FQDN}"}}, "patch": {}}], "manual"),
        ([{"applyTo": "CLUSTER", "patch": {}}, {"applyTo": "LISTENER", "patch": {}}], "manual"),
    ],
)
def test_a_patch_is_removed_only_if_it_is_for_this_service_alone(patches: list[JsonDict], kind: str) -> None:
    rules = [rule("cart", trafficPolicy=HASH)]
    view = envoy(rules)
    assert view.cluster is not None
    seen = situation(replace(view, cluster=replace(view.cluster, lb_policy="RANDOM")), rules)
    seen.facts.rules["EnvoyFilter"] = ({"metadata": {"name": "own", "namespace": "shop", "resourceVersion": "4"}, "spec": {"configPatches": patches}},)
    (found,) = find_causes(seen)
    assert (found.id, found.fix.kind) == ("C16", kind)
    assert "delete" not in found.fix.body


def test_a_port_is_not_declared_as_http_unless_it_was_seen_to_be() -> None:
    service = {**SERVICE, "spec": {**SERVICE["spec"], "ports": [{"name": "tcp-web", "port": 8000}]}}
    (found,) = find_causes(situation(replace(envoy([]), route=None), service=service))
    assert (found.id, found.fix.kind) == ("C30", "manual")


def test_a_headless_service_stays_beside_one_with_an_address() -> None:
    """To replace it, as was printed, takes it from all its callers for a while, and from some for good."""
    headless = {**SERVICE, "spec": {**SERVICE["spec"], "clusterIP": "None"}}
    view = envoy([])
    assert view.cluster is not None
    (found,) = [
        entry for entry in find_causes(situation(replace(view, cluster=replace(view.cluster, type="ORIGINAL_DST")), service=headless)) if entry.id == "C32"
    ]
    service, made = yaml.safe_load_all(found.fix.body)
    assert (service["metadata"]["name"], "clusterIP" in service["spec"]) == ("cart-sticky", False)
    assert made["spec"]["host"] == "cart-sticky.shop.svc.cluster.local"
