# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of key that Istio hashes on, and every way to know the pod that answered, on the live lab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from affinity_support import KEY, Mesh, hashing, parts_of

# Envoy answers with this header; the sample's own identity header is then left out of sight.
UNHELPFUL = ["X-Nothing"]
COOKIE, QUERY = {"type": "cookie", "name": "user"}, {"type": "query", "name": "user"}
SOURCE = {"type": "source_ip"}
# Services over the sample's pods: what each hashes on, and the key for it.
KEYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "cookie-with-ttl": ({"httpCookie": {"name": "user", "ttl": "60s"}}, COOKIE),
    "cookie-without-ttl": ({"httpCookie": {"name": "user"}}, COOKIE),
    "query": ({"httpQueryParameterName": "user"}, QUERY),
    "source": ({"useSourceIp": True}, SOURCE),
    "persistent": ({"httpHeaderName": "user-session"}, KEY),
}
PART = "keys"
LABELS = {"istio.io/persistent-session": "session", "istio.io/persistent-session-header": "x-session"}


@pytest.fixture(scope="module", autouse=True)
def services(mesh: Mesh) -> Iterator[None]:
    """A service for each key and one without a rule, so that no test alters the sample. On one are Istio's labels for
    persistent sessions, which mean nothing as long as istiod is not told to heed them."""
    objects = [part for name, (consistent, _key) in KEYS.items() for part in parts_of(name, hashing(**consistent), labels={PART: name})]
    (persistent,) = [part for part in objects if part["metadata"]["name"] == "persistent" and part["kind"] == "Service"]
    persistent["metadata"]["labels"] |= LABELS
    mesh.apply(*parts_of("ruleless", labels={PART: "ruleless"}), *objects)
    mesh.wait_for("proxy.lb_policy == 'LEAST_REQUEST'", "ruleless")
    for name, (_consistent, key) in KEYS.items():
        mesh.wait_for("proxy.in_sync", name, key)
    yield
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io", "-l", PART)


def states(result: dict[str, Any]) -> dict[str, str]:
    return {name: control["state"] for name, control in result["controls"].items()}


@pytest.mark.parametrize("name", ["cookie-with-ttl", "cookie-without-ttl", "query", "source"])
def test_each_key_sticks_where_it_must(mesh: Mesh, name: str) -> None:
    key = KEYS[name][1]
    result = mesh.look(service=name, key=key)
    assert result["verdict"] == "passed", result["msg"]
    assert (result["prediction"]["available"], result["prediction"]["matched"]) == (True, 39)
    assert states(result)["keyless"] == ("not_applicable" if key["type"] == "source_ip" else "passed")


@pytest.mark.parametrize("mode", ["learned", "browser"])
def test_the_cookie_that_envoy_issues_is_learned_and_sticks(mesh: Mesh, mode: str) -> None:
    result = mesh.look(service="cookie-with-ttl", key=COOKIE | {"cookie": mode})
    assert result["verdict"] == "passed", result["msg"]
    assert result["prediction"]["reason"] == "the values of the key were issued during the run"


def test_a_cookie_that_nobody_issues_does_not_stick(mesh: Mesh) -> None:
    result = mesh.look(service="cookie-without-ttl", key=COOKIE | {"cookie": "learned"})
    assert result["verdict"] == "failed"


def test_a_cookie_that_the_application_issues_moves_with_the_second_request(mesh: Mesh) -> None:
    """The request that earns the cookie lands anywhere, and the cookie's hash leads elsewhere: the commonest real failure."""
    result = mesh.look(service="cookie-without-ttl", path="/issue", key=COOKIE | {"cookie": "learned"}, sessions=100, requests=10)
    assert result["verdict"] == "failed", result["msg"]
    moved = [session for session in result["sessions"] if session["moved"]]
    # Two in three first requests land elsewhere; each such session met one other pod once.
    assert 40 <= len(moved) <= 92
    assert all(min(session["pods"].values()) == 1 for session in moved)
    replayed = mesh.look(service="cookie-without-ttl", path="/issue", key=COOKIE)
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
    assert result["prediction"]["matched"] == 39


def test_the_counters_also_show_what_does_not_stick(mesh: Mesh) -> None:
    result = mesh.look(service="ruleless", identify="upstream", identify_header=UNHELPFUL)
    assert result["verdict"] == "failed"


def test_the_access_log_tells_the_pod_where_it_is_on(mesh: Mesh) -> None:
    telemetry = {
        "apiVersion": "telemetry.istio.io/v1",
        "kind": "Telemetry",
        "metadata": {"name": "log"},
        "spec": {"accessLogging": [{"providers": [{"name": "envoy"}]}]},
    }
    mesh.apply(telemetry)
    try:
        log = ("-n", mesh.namespace, "logs", "test-pod", "-c", "istio-proxy", "--tail=3")

        def logged() -> bool:
            mesh.kubectl("-n", mesh.namespace, "exec", "test-pod", "-c", "curl", "--", "curl", "-s", "-o", "/dev/null", "http://nginx-service/on")
            return "/on" in mesh.kubectl(*log).stdout

        mesh.wait_until("the access log is on", logged)
        result = mesh.look(identify="access_log", identify_header=UNHELPFUL, profile="quick")
        assert (result["verdict"], result["identified_by"]) == ("passed", "access_log"), result["msg"]
    finally:
        mesh.delete("telemetry", "log")


def test_an_answer_that_names_nobody_is_inconclusive(mesh: Mesh) -> None:
    result = mesh.look(identify="header", identify_header=UNHELPFUL)
    assert result["verdict"] == "inconclusive"
    assert "nothing in them names a pod" in result["msg"]


def test_a_sidecar_takes_the_source_from_what_was_forwarded(mesh: Mesh) -> None:
    """So one pod stands for many sources, in whatever way their addresses are written."""
    addresses = ["203.0.113.7", "2001:db8::1", "2001:DB8:0:0:0:0:0:A", "::1", "fe80::1", "255.255.255.255"]
    result = mesh.look(service="source", key=SOURCE, session_ids=addresses, requests=3, max_flip_rate=0.1)
    assert result["verdict"] == "passed", result["msg"]
    assert [session["id"] for session in result["sessions"]][: len(addresses)] == addresses
    assert result["prediction"]["matched"] == len(result["sessions"]), result["prediction"]


def test_labels_for_persistent_sessions_are_said_not_to_be_judged(mesh: Mesh) -> None:
    result = mesh.look(service="persistent", profile="quick")
    assert result["verdict"] == "passed", result["msg"]
    assert "has the label istio.io/persistent-session=session, istio.io/persistent-session-header=x-session, but no Envoy that was read" in result["msg"]
    assert "PILOT_ENABLE_PERSISTENT_SESSION_FILTER" in result["msg"]


def test_persistent_sessions_in_force_are_said_not_to_be_judged(mesh: Mesh) -> None:
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
    host = f"persistent.{mesh.namespace}.svc.cluster.local:80"
    patches = [
        {"applyTo": "HTTP_FILTER", "match": {"context": "SIDECAR_OUTBOUND", "listener": chain}, "patch": inserted},
        {"applyTo": "VIRTUAL_HOST", "match": {"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"vhost": {"name": host}}}, "patch": merged},
    ]
    client = mesh.objects["pod/test-pod"]["metadata"]["labels"]["app"]
    spec = {"workloadSelector": {"labels": {"app": client}}, "configPatches": patches}
    mesh.apply({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "persistent"}, "spec": spec})
    ask = ("-n", mesh.namespace, "exec", "test-pod", "-c", "curl", "--", "curl", "-s", "-D", "-", "-o", "/dev/null", "http://persistent/")
    try:
        mesh.wait_until("Envoy hands out its cookie", lambda: "set-cookie: session=" in mesh.kubectl(*ask).stdout.lower())
        result = mesh.look(service="persistent", profile="quick")
    finally:
        mesh.delete("envoyfilter", "persistent")
    assert result["verdict"] == "passed", result["msg"]
    assert "and Envoy has persistent sessions on this route; the verdict does not cover them, only the hash of header user-session" in result["msg"]
