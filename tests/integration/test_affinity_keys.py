# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of key that Istio hashes on, and every way to know the pod that answered, on the live lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from affinity_support import Mesh

RULE = ("destinationrule", "nginx-destinationrule")
# Envoy answers with this header; the sample's own identity header is then left out of sight.
UNHELPFUL = ["X-Nothing"]


def hash_on(mesh: Mesh, rule: dict[str, Any], policy: str) -> None:
    """Replace the rule's key, and wait until Envoy hashes on it."""
    spec = {"consistentHash": {"httpHeaderName": None, **rule}}
    mesh.patch(*RULE, {"spec": {"trafficPolicy": {"loadBalancer": spec}}})
    mesh.wait_for(f"proxy.hash_policy and proxy.hash_policy[0].type == '{policy}'")


def states(result: dict[str, Any]) -> dict[str, str]:
    return {name: control["state"] for name, control in result["controls"].items()}


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ({"httpCookie": {"name": "user", "ttl": "60s"}}, {"type": "cookie", "name": "user"}),
        ({"httpCookie": {"name": "user"}}, {"type": "cookie", "name": "user"}),
        ({"httpQueryParameterName": "user"}, {"type": "query", "name": "user"}),
        ({"useSourceIp": True}, {"type": "source_ip"}),
    ],
    ids=["cookie with ttl", "cookie without ttl", "query", "source ip"],
)
def test_each_key_sticks_where_it_must(broken: Mesh, rule: dict[str, Any], key: dict[str, Any]) -> None:
    hash_on(broken, rule, key["type"])
    result = broken.look(key=key)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["available"], result["prediction"]["matched"]) == (True, 36)
    assert states(result)["keyless"] == ("not_applicable" if key["type"] == "source_ip" else "passed")


def test_the_cookie_that_envoy_issues_is_learned_and_sticks(broken: Mesh) -> None:
    hash_on(broken, {"httpCookie": {"name": "user", "ttl": "60s"}}, "cookie")
    for mode in ("learned", "browser"):
        result = broken.look(key={"type": "cookie", "name": "user", "cookie": mode})
        assert result["verdict"] == "passed", result["msg"]
        assert result["prediction"]["reason"] == "the values of the key were issued during the run"


def test_a_cookie_that_nobody_issues_does_not_stick(broken: Mesh) -> None:
    hash_on(broken, {"httpCookie": {"name": "user"}}, "cookie")
    result = broken.look(key={"type": "cookie", "name": "user", "cookie": "learned"})
    assert result["verdict"] == "failed"


def test_a_cookie_that_the_application_issues_moves_with_the_second_request(broken: Mesh) -> None:
    """The request that earns the cookie lands anywhere, and the cookie's hash leads elsewhere: the commonest real failure."""
    config = json.loads(broken.kubectl("-n", broken.namespace, "get", "configmap", "nginx-deployment", "-o", "json").stdout)
    name, text = next(iter(config["data"].items()))
    issuing = text.replace("add_header X-Pod-Name", 'add_header Set-Cookie "user=$request_id" always;\n      add_header X-Pod-Name', 1)
    assert issuing != text
    broken.patch("configmap", "nginx-deployment", {"data": {name: issuing}})
    broken.kubectl("-n", broken.namespace, "rollout", "restart", "deployment/nginx-deployment")
    broken.kubectl("-n", broken.namespace, "rollout", "status", "deployment/nginx-deployment", "--timeout=90s")
    hash_on(broken, {"httpCookie": {"name": "user"}}, "cookie")
    broken.wait_until("three nginx pods", lambda: len(broken.pods()) == 3)
    result = broken.look(key={"type": "cookie", "name": "user", "cookie": "learned"})
    assert result["verdict"] == "failed", result["msg"]
    moved = [session for session in result["sessions"] if session["moved"]]
    # Two in three first requests land elsewhere; each such session met one other pod once.
    assert 10 <= len(moved) <= 34
    assert all(min(session["pods"].values()) == 1 for session in moved)
    replayed = broken.look(key={"type": "cookie", "name": "user"})
    assert replayed["verdict"] == "passed", "a check that only replays values can't see it"


@pytest.mark.parametrize(
    ("options", "by"),
    [
        ({"identify": "upstream", "identify_header": UNHELPFUL}, "upstream"),
        ({"identify_header": UNHELPFUL}, "upstream"),
        ({"identify": "body", "identify_pattern": r"nginx-deployment-\w+-\w+", "identify_header": UNHELPFUL}, "body"),
    ],
    ids=["upstream", "auto without a header", "body"],
)
def test_an_application_without_the_header_is_checkable(mesh: Mesh, options: dict[str, Any], by: str) -> None:
    result = mesh.look(**options)
    assert (result["verdict"], result["identified_by"]) == ("passed", by), result["msg"]
    assert result["prediction"]["matched"] == 36


def test_the_counters_also_show_what_does_not_stick(broken: Mesh) -> None:
    broken.delete(*RULE)
    broken.wait_for("proxy.lb_policy == 'LEAST_REQUEST'")
    result = broken.look(identify="upstream", identify_header=UNHELPFUL)
    assert result["verdict"] == "failed"


def test_the_access_log_tells_the_pod_where_it_is_on(broken: Mesh) -> None:
    telemetry = {
        "apiVersion": "telemetry.istio.io/v1",
        "kind": "Telemetry",
        "metadata": {"name": "log"},
        "spec": {"accessLogging": [{"providers": [{"name": "envoy"}]}]},
    }
    broken.apply(telemetry)
    try:
        log = ("-n", broken.namespace, "logs", "test-pod", "-c", "istio-proxy", "--tail=3")

        def logged() -> bool:
            broken.kubectl("-n", broken.namespace, "exec", "test-pod", "-c", "curl", "--", "curl", "-s", "-o", "/dev/null", "http://nginx-service/on")
            return "/on" in broken.kubectl(*log).stdout

        broken.wait_until("the access log is on", logged)
        result = broken.look(identify="access_log", identify_header=UNHELPFUL, profile="quick")
        assert (result["verdict"], result["identified_by"]) == ("passed", "access_log"), result["msg"]
    finally:
        broken.delete("telemetry", "log")


def test_an_answer_that_names_nobody_is_inconclusive(mesh: Mesh) -> None:
    result = mesh.look(identify="header", identify_header=UNHELPFUL)
    assert result["verdict"] == "inconclusive"
    assert "none names its pod" in result["msg"]


def test_a_sidecar_takes_the_source_from_what_was_forwarded(broken: Mesh) -> None:
    """So one pod stands for many sources, in whatever way their addresses are written."""
    hash_on(broken, {"useSourceIp": True}, "source_ip")
    addresses = ["203.0.113.7", "2001:db8::1", "2001:DB8:0:0:0:0:0:A", "::1", "fe80::1", "255.255.255.255"]
    result = broken.look(key={"type": "source_ip"}, session_ids=addresses, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "passed", result["msg"]
    assert [session["id"] for session in result["sessions"]][: len(addresses)] == addresses
    assert result["prediction"]["matched"] == len(result["sessions"]), result["prediction"]


LABELS = {"istio.io/persistent-session": "session", "istio.io/persistent-session-header": "x-session"}


@pytest.fixture
def labelled(broken: Mesh) -> Iterator[Mesh]:
    """Istio's labels for persistent sessions on the Service, which mean nothing as long as istiod is not told to heed them."""
    broken.kubectl("-n", broken.namespace, "label", "service", "nginx-service", *(f"{name}={value}" for name, value in LABELS.items()))
    yield broken
    broken.kubectl("-n", broken.namespace, "label", "service", "nginx-service", *(f"{name}-" for name in LABELS))


def test_labels_for_persistent_sessions_are_said_not_to_be_judged(labelled: Mesh) -> None:
    result = labelled.look(profile="quick")
    assert result["verdict"] == "passed", result["msg"]
    assert "has the label istio.io/persistent-session=session, istio.io/persistent-session-header=x-session, but no Envoy that was read" in result["msg"]
    assert "PILOT_ENABLE_PERSISTENT_SESSION_FILTER" in result["msg"]


def test_persistent_sessions_in_force_are_said_not_to_be_judged(labelled: Mesh) -> None:
    """As istiod would set them up if it were told to, in the client's Envoy only."""
    package = "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3"
    cookie = {
        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
        "cookie": {"name": "session", "path": "/"},
    }
    on_route = {
        "@type": f"{package}.StatefulSessionPerRoute",
        "stateful_session": {"session_state": {"name": "envoy.http.stateful_session.cookie", "typed_config": cookie}},
    }
    chain = {"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager", "subFilter": {"name": "envoy.filters.http.router"}}}}
    name = "envoy.filters.http.stateful_session"
    inserted = {"operation": "INSERT_BEFORE", "value": {"name": name, "typed_config": {"@type": f"{package}.StatefulSession"}}}
    merged = {"operation": "MERGE", "value": {"typed_per_filter_config": {name: on_route}}}
    host = f"nginx-service.{labelled.namespace}.svc.cluster.local:80"
    patches = [
        {"applyTo": "HTTP_FILTER", "match": {"context": "SIDECAR_OUTBOUND", "listener": chain}, "patch": inserted},
        {"applyTo": "VIRTUAL_HOST", "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"vhost": {"name": host}}}, "patch": merged},
    ]
    client = labelled.objects["pod/test-pod"]["metadata"]["labels"]["app"]
    spec = {"workloadSelector": {"labels": {"app": client}}, "configPatches": patches}
    labelled.apply({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "persistent"}, "spec": spec})
    ask = ("-n", labelled.namespace, "exec", "test-pod", "-c", "curl", "--", "curl", "-s", "-D", "-", "-o", "/dev/null", "http://nginx-service/")
    try:
        labelled.wait_until("Envoy hands out its cookie", lambda: "set-cookie: session=" in labelled.kubectl(*ask).stdout.lower())
        result = labelled.look(profile="quick")
    finally:
        labelled.delete("envoyfilter", "persistent")
        labelled.wait_until("Envoy hands out no cookie", lambda: "set-cookie" not in labelled.kubectl(*ask).stdout.lower())
    assert result["verdict"] == "passed", result["msg"]
    assert "and Envoy has persistent sessions on this route; the verdict does not cover them, only the hash of header user-session" in result["msg"]
