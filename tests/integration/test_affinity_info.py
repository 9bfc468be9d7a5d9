# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""istio_affinity_info on the live lab: what it finds, its static verdict beside the live one, what it does without rights.

Each scenario is a service of its own over the same pods, with rules of its own, so one look shows them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from affinity_support import INFO, KEY, Mesh, curl_pod, parts_of, probe_pod
from inprocess import ask_info, run_info

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import maglev_chooser, request_hash
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError

HASH: dict[str, Any] = {"consistentHash": {"httpHeaderName": "user-session"}}
SCENARIO = "scenario"


def destination(service: str, **more: Any) -> dict[str, Any]:
    return {"destination": {"host": service, **more}}


def policy(**fields: Any) -> dict[str, Any]:
    return {"trafficPolicy": fields}


def subsets(*names: str, **more: Any) -> list[dict[str, Any]]:
    """Subsets of all pods; `more` is the traffic policy of each."""
    return [{"name": name, "labels": {"app": "nginx"}, **more} for name in names]


ONE = subsets("one")
BY_ZONE = {"localityLbSetting": {"enabled": True, "distribute": [{"from": "lab/zone-a/*", "to": {"lab/zone-a/*": 80, "lab/zone-b/*": 20}}]}}
# name: DestinationRule (None: none), routes of a VirtualService (None: none), the Service's port, static verdict, words of its reason
SCENARIOS: dict[str, tuple[dict[str, Any] | None, list[dict[str, Any]] | None, dict[str, Any], str, str]] = {
    "healthy": (policy(loadBalancer=HASH), None, {}, "sticks", "hash on header user-session by RING_HASH over 3 ready pods"),
    "with-routes": (policy(loadBalancer=HASH), [{"route": [destination("with-routes")]}], {}, "sticks", "RING_HASH over 3 ready pods"),
    "unnamed-port": (policy(loadBalancer=HASH), None, {"name": "x"}, "sticks", "RING_HASH"),
    "maglev": (
        policy(loadBalancer={"consistentHash": {"httpHeaderName": "user-session", "maglev": {"tableSize": 65537}}}),
        None,
        {},
        "sticks",
        "by MAGLEV",
    ),
    "one-subset": (policy(loadBalancer=HASH) | {"subsets": ONE}, [{"route": [destination("one-subset", subset="one")]}], {}, "sticks", "RING_HASH"),
    "same-weighted": (
        policy(loadBalancer=HASH) | {"subsets": subsets("one", "two")},
        [{"route": [destination("same-weighted", subset=name) | {"weight": 50} for name in ("one", "two")]}],
        {},
        "sticks",
        "RING_HASH over 3 ready pods",
    ),
    "locality-off": (
        policy(loadBalancer=HASH | {"localityLbSetting": {"enabled": False}}, outlierDetection={"consecutive5xxErrors": 5}),
        None,
        {},
        "sticks",
        "RING_HASH over 3 ready pods",
    ),
    "other-header": (policy(loadBalancer={"consistentHash": {"httpHeaderName": "user_session"}}), None, {}, "does_not", "hashes on header user_session"),
    "simple": (policy(loadBalancer={"simple": "ROUND_ROBIN"}), None, {}, "does_not", "has no hash policy"),
    "port-level": (
        policy(portLevelSettings=[{"port": {"number": 80}, "loadBalancer": HASH}]),
        [{"route": [destination("port-level")]}],
        {},
        "does_not",
        "has no hash policy",
    ),
    "not-inherited": (
        policy(loadBalancer=HASH, portLevelSettings=[{"port": {"number": 80}, "connectionPool": {"tcp": {"maxConnections": 100}}}]),
        [{"route": [destination("not-inherited", port={"number": 80})]}],
        {},
        "does_not",
        "by LEAST_REQUEST",
    ),
    "subset-simple": (
        policy(loadBalancer=HASH) | {"subsets": subsets("one", **policy(loadBalancer={"simple": "RANDOM"}))},
        [{"route": [destination("subset-simple", subset="one")]}],
        {},
        "does_not",
        "(subset one) by RANDOM",
    ),
    "weighted": (
        policy(loadBalancer=HASH) | {"subsets": [*ONE, *subsets("plain", **policy(loadBalancer={"simple": "RANDOM"}))]},
        [{"route": [destination("weighted", subset=name) | {"weight": 50} for name in ("one", "plain")]}],
        {},
        "does_not",
        "(subset plain), and Envoy selects one of them for each request",
    ),
    "removed": (
        policy(loadBalancer=HASH),
        [{"headers": {"request": {"remove": ["User-Session"]}}, "route": [destination("removed")]}],
        {},
        "does_not",
        "removes the header user-session before Envoy hashes it",
    ),
    "removed-late": (
        policy(loadBalancer=HASH),
        [{"route": [destination("removed-late") | {"headers": {"request": {"remove": ["user-session"]}}}]}],
        {},
        "does_not",
        "removes the header user-session",
    ),
    "overwritten": (
        policy(loadBalancer=HASH),
        [{"headers": {"request": {"set": {"user-session": "x"}}}, "route": [destination("overwritten")]}],
        {},
        "does_not",
        "sets the header user-session",
    ),
    "tcp-port": (policy(loadBalancer=HASH), None, {"name": "tcp"}, "does_not", "treats the port as TCP and has no hash policy"),
    "https-port": (policy(loadBalancer=HASH), None, {"name": "https"}, "does_not", "treats the port as TCP"),
    "passthrough": (policy(loadBalancer={"simple": "PASSTHROUGH"}), None, {}, "does_not", "has no hash policy"),
    "outlier": (
        policy(loadBalancer=HASH, outlierDetection={"consecutive5xxErrors": 5}),
        None,
        {},
        "does_not",
        "of its own locality, so clients elsewhere select other pods",
    ),
    "same-zone": (policy(loadBalancer=HASH), None, {"trafficDistribution": "PreferSameZone"}, "does_not", "of its own locality"),
    # What only another locality would show, and routes that a plain request does not take: the named few that stay open.
    "distribute": (
        policy(loadBalancer=HASH | BY_ZONE),
        None,
        {},
        "unknown",
        "localities have weights",
    ),
    "match": (
        policy(loadBalancer=HASH),
        [{"match": [{"headers": {"user-session": {"regex": ".+"}}}], "route": [destination("match")]}],
        {},
        "sticks",
        "Requests without the key are answered by Envoy itself (404, as no route matches)",
    ),
    "lane": (
        policy(loadBalancer=HASH),
        [{"match": [{"headers": {"x-lane": {"exact": "blue"}}}], "route": [destination("lane")]}],
        {},
        "unknown",
        "requires other headers or another path",
    ),
    "canary": (
        policy(loadBalancer=HASH),
        [
            {"match": [{"headers": {"cookie": {"regex": ".*canary-seat=in.*"}}}], "route": [destination("canary")]},
            {"route": [destination("canary")]},
        ],
        {},
        "sticks",
        "Other requests take a route of their own: header cookie safe_regex .*canary-seat=in.* leads to canary.",
    ),
}
# What breaks between zones only; in the lab of `make test` there is one.
BETWEEN_ZONES = ("outlier", "same-zone", "distribute")
CONTRADICTION = {("sticks", "failed"), ("does_not", "passed")}


def objects_of(name: str) -> list[dict[str, Any]]:
    """Service, DestinationRule and VirtualService of a scenario."""
    rule, routes, port, _verdict, _words = SCENARIOS[name]
    spec = {key: value for key, value in port.items() if key == "trafficDistribution"}
    named = {key: value for key, value in port.items() if key == "name"}
    return parts_of(name, rule, routes, labels={SCENARIO: name}, port=named, **spec)


def expected(name: str, zones: int) -> tuple[str, str]:
    """The static verdict on a scenario, and words of its reason."""
    return ("sticks", "RING_HASH over 3 ready pods") if name in BETWEEN_ZONES and zones < 2 else SCENARIOS[name][3:]


@pytest.fixture(scope="module")
def two_clients(mesh: Mesh) -> Iterator[int]:
    """A second client, on another node if there is one; the number of nodes, each of which is a zone."""
    nodes = [node["metadata"]["name"] for node in json.loads(mesh.kubectl("get", "nodes", "-o", "json").stdout)["items"]]
    here = mesh.node_of_client()
    elsewhere = next((node for node in nodes if node != here), here)
    mesh.apply(probe_pod("far-client", elsewhere))
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", "pod/far-client", "--timeout=90s")
    yield len(nodes)
    mesh.kubectl("-n", mesh.namespace, "delete", "pod", "far-client", "--wait=true")


@pytest.fixture(scope="module")
def shown(mesh: Mesh, two_clients: int) -> Iterator[Callable[[str], dict[str, Any]]]:
    """One look at all scenarios, as soon as the clients' Envoys have them; the entry of one by its name."""
    mesh.apply(*(part for name in SCENARIOS for part in objects_of(name)))
    found: dict[str, dict[str, Any]] = {}

    def look() -> bool:
        found.update({entry["service"]: entry for entry in run_info(mesh.kubeconfig, namespace=mesh.namespace, key=KEY, client={"max": 2})})
        return found.keys() >= SCENARIOS.keys() - set(UNASKED) and not wrong()

    def wrong() -> list[str]:
        return [f"{name}: {entry['why']}" for name, entry in found.items() if name in SCENARIOS and entry["static_verdict"] != expected(name, two_clients)[0]]

    try:
        mesh.wait_until("the clients' Envoys have all scenarios", look)
    except AssertionError as late:
        raise AssertionError(f"{late}: {wrong()}") from late
    for name in UNASKED:
        found.update({entry["service"]: entry for entry in run_info(mesh.kubeconfig, namespace=mesh.namespace, service=name, key=KEY, client={"max": 2})})
    yield lambda name: found[name]
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io,virtualservices.networking.istio.io", "-l", SCENARIO)


# Rules that ask for no affinity: shown only when the service is named.
UNASKED = ("simple", "passthrough")


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_static_verdict_is_decided_and_never_contradicts_the_live_one(
    mesh: Mesh, two_clients: int, shown: Callable[[str], dict[str, Any]], name: str
) -> None:
    entry = shown(name)
    verdict, words = expected(name, two_clients)
    assert (entry["static_verdict"], words in entry["why"]) == (verdict, True), entry["why"]
    live = mesh.look(service=name, client={"max": 2}, profile="quick")
    assert (verdict, live["verdict"]) not in CONTRADICTION, (entry["why"], live["msg"])
    assert (verdict == "sticks") == (live["verdict"] == "passed"), live["msg"]
    assert entry["prediction"]["available"] == live["prediction"]["available"], (entry["prediction"], live["prediction"])


def test_discovery_finds_what_asks_for_affinity_and_nothing_else(mesh: Mesh, shown: Callable[[str], dict[str, Any]]) -> None:
    shown("healthy")
    mesh.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain", "labels": {SCENARIO: "plain"}}, "spec": {"ports": [{"port": 80}]}})
    played = mesh.ansible([{"name": "Find", INFO: {"client": {"namespace": mesh.namespace}}}]).expect()
    result = played.of(INFO).result
    here = [entry for entry in result["services"] if entry["namespace"] == mesh.namespace]
    assert {entry["service"] for entry in here} == {*SCENARIOS, "nginx-service"} - {*UNASKED}
    assert all(entry["port"] == 80 and entry["proxies"] for entry in here)
    assert (result["changed"], result["unread"]) == (False, [])


# Tables of which almost certainly one has any two clients on two pods.
PRIMES = (101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157)


def test_on_a_tcp_port_each_client_is_a_session_by_its_own_address(mesh: Mesh, shown: Callable[[str], dict[str, Any]]) -> None:
    """Two clients that must land on two pods, which is no move; without the rule each of them moves."""
    shown("tcp-port")
    address = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in mesh.pods("meshops.istio/probe=true")}
    hosts = {f"{pod['status']['podIP']}:8080": pod["metadata"]["name"] for pod in mesh.pods()}

    def placed(size: int) -> dict[str, str]:
        choose = maglev_chooser(sorted(hosts), size)
        return {client: hosts[choose(request_hash(client))] for client in address.values()}

    size = next(size for size in PRIMES if len(set(placed(size).values())) == 2)
    options: dict[str, Any] = {"service": "tcp-port", "key": {"type": "source_ip"}, "client": {"max": 2}}

    def look() -> dict[str, Any]:
        return run_info(mesh.kubeconfig, namespace=mesh.namespace, session_ids=sorted(address.values()), **options)[0]

    def predicted() -> dict[str, str]:
        return {session["id"]: session["predicted"] for session in look()["sessions"]}

    mesh.patch(
        "destinationrule",
        "tcp-port",
        {"spec": policy(loadBalancer={"consistentHash": {"httpHeaderName": None, "useSourceIp": True, "maglev": {"tableSize": size}}})},
    )
    mesh.wait_until("the listener hashes", lambda: predicted() == placed(size))
    static = look()
    assert (static["static_verdict"], static["proxies"][0]["hash_policy"], static["findings"]) == ("sticks", [{"type": "source_ip", "name": None}], [])

    live = mesh.look(**options)
    assert live["verdict"] == "passed", live["msg"]
    assert {session["id"]: (session["predicted"], list(session["pods"])) for session in live["sessions"]} == {
        client: (pod, [pod]) for client, pod in placed(size).items()
    }
    assert live["requests"]["answered"] == live["requests"]["planned"] == 2 * 39 * 4
    from_rule = mesh.look(**options | {"key": None, "profile": "quick"})
    assert (from_rule["verdict"], from_rule["key"]) == ("passed", {"type": "source_ip", "name": None, "origin": "rule"}), from_rule["msg"]
    refused = mesh.look(**options, session_ids=["10.0.0.1"])
    assert (refused["verdict"], refused["error"]["code"]) == ("error", "bad_option"), refused["msg"]
    assert "hashes only the client pod's own address" in refused["msg"]

    mesh.patch("destinationrule", "tcp-port", {"spec": policy(loadBalancer={"consistentHash": None, "simple": "RANDOM"})})
    mesh.wait_until("the listener does not hash", lambda: look()["static_verdict"] == "does_not")
    moving = mesh.look(**options)
    assert (moving["verdict"], [session["moved"] for session in moving["sessions"]]) == ("failed", [True, True]), moving["msg"]


def test_without_a_client_only_the_objects_speak(mesh: Mesh, namespace: Callable[..., str]) -> None:
    where = namespace()
    objects = [part | {"metadata": part["metadata"] | {"namespace": where}} for part in objects_of("healthy")]
    mesh.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    (entry,) = run_info(mesh.kubeconfig, namespace=where)
    assert (entry["static_verdict"], entry["rule"], entry["proxies"]) == ("unknown", f"{where}/healthy", [])
    assert entry["key"] == {"type": "header", "name": "user-session", "origin": "rule"}
    assert "there is no ready client pod" in entry["why"]


def test_a_client_without_sidecar_does_not_stick(mesh: Mesh) -> None:
    pod = curl_pod("bare")
    pod["metadata"]["labels"] = {"sidecar.istio.io/inject": "false"}
    mesh.apply(pod)
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", "pod/bare", "--timeout=90s")
    (entry,) = run_info(mesh.kubeconfig, namespace=mesh.namespace, service="nginx-service", client={"pod": "bare"})
    mesh.delete("pod", "bare")
    assert (entry["static_verdict"], entry["prediction"]["available"]) == ("does_not", False)
    assert f"pod {mesh.namespace}/bare has no sidecar" in entry["why"]


def test_a_hundred_services_in_one_look(mesh: Mesh, namespace: Callable[..., str]) -> None:
    where = namespace()
    names = [f"service-{number}" for number in range(100)]
    labels = {"app": "idle"}
    idle = curl_pod("idle") | {"metadata": {"labels": labels | {"sidecar.istio.io/inject": "false"}}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "idle"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {key: idle[key] for key in ("metadata", "spec")}},
    }
    services = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": labels, "ports": [{"name": "http", "port": 80}]}}
        for name in names
    ]
    rules = [
        {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name}, "spec": {"host": name, **policy(loadBalancer=HASH)}}
        for name in names
    ]
    items = [deployment, probe_pod("client"), *services, *rules]
    mesh.kubectl("-n", where, "create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    mesh.kubectl("-n", where, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = run_info(mesh.kubeconfig, namespace=where)
        return len(found) == 100 and all(entry["static_verdict"] == "sticks" for entry in found)

    mesh.wait_until("all hundred are found and in order", look)
    assert {entry["service"] for entry in found} == set(names)
    assert {(len(entry["backends"]), entry["proxies"][0]["in_sync"]) for entry in found} == {(2, True)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"what_if": {}}, "Option what_if is empty; give remove_pods, drain_node or replicas"),
        ({"what_if": {"replicas": 0}}, "Option what_if.replicas is 0; it must be at least 1"),
        ({"what_if": {"remove_pods": ["no-such"]}}, "no inspected service has a pod no-such; there are nginx-deployment-"),
        ({"what_if": {"drain_node": "no-such"}}, "there is no node no-such; the inspected pods are on node-"),
        ({"namespace": [""]}, "Option namespace contains an empty name"),
        ({"namespace": ["affinity", "default"], "client": {"pod": "test-pod"}}, "Option client.pod needs client.namespace"),
        ({"port": 81}, "has no port 81; it has 80 (http)"),
        ({"key": {"type": "cookie"}}, "Option key.name is missing"),
    ],
    ids=["empty", "replicas", "pod", "node", "namespace", "client", "port", "key"],
)
def test_options_that_make_no_sense_are_refused(mesh: Mesh, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckError, match=re.escape(words)) as refused:
        ask_info(mesh.kubeconfig, **({"namespace": mesh.namespace, "service": "nginx-service"} | options))
    assert refused.value.code == ("no_port" if "port" in options else "bad_option")


def test_an_option_that_makes_no_sense_fails_the_task_with_words(mesh: Mesh) -> None:
    played = mesh.ansible([{"name": "Info", INFO: {"namespace": mesh.namespace, "service": "nginx-service", "what_if": {"replicas": 0}}}])
    result = played.of(INFO).result
    assert (played.rc, result["error"]["code"], result["msg"]) == (2, "bad_option", "Option what_if.replicas is 0; it must be at least 1.")
    assert "Traceback" not in played.ran.output


def test_what_may_not_be_read_is_said_and_the_rest_is_shown(mesh: Mesh, lab: Path, tmp_path: Path) -> None:
    """An account that may look at services and pods of one namespace, and at nothing else."""
    rules = [{"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["get", "list"]}]
    group = "rbac.authorization.k8s.io"
    mesh.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": mesh.namespace}],
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
        },
    )
    config = yaml.safe_load(lab.read_text())
    config["users"][0]["user"] = {"token": mesh.kubectl("-n", mesh.namespace, "create", "token", "reader").stdout.strip()}
    poor = tmp_path / "kubeconfig"
    poor.write_text(yaml.safe_dump(config))
    (entry,), unread = ask_info(poor, namespace=mesh.namespace, service="nginx-service")
    assert (entry["static_verdict"], entry["backends"], entry["proxies"][0]["in_sync"]) == ("unknown", [], False)
    for what in ("list endpointslices", "list destinationrules", "exec into container"):
        assert any(what in sentence for sentence in unread), unread
    with pytest.raises(CheckError, match="name them in the option namespace") as refused:
        ask_info(poor)
    assert refused.value.code == "forbidden"
