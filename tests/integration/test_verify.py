# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""verify.yml on an estate: what is red and what is not, how gently it probes, and that one cluster never stops another.

With ISTIO_CHURN_RUNS=100 that many runs are made while rollouts never end (`make test-full`), instead of one.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from affinity_support import KEY, Mesh
from verify_support import Estate, entry, judged, outcome, seconds, service_objects

if TYPE_CHECKING:
    from integration.conftest import Ansible

# Runs under churn, as many clusters of one inventory at once.
CHURN_RUNS, AT_ONCE = int(os.environ.get("ISTIO_CHURN_RUNS", "1")), 3
BROKEN = "login"
SERVICES = {"cart": "user-session", "search": "user-session", BROKEN: "user-sesion"}


@pytest.fixture(scope="module")
def services(mesh: Mesh) -> Iterator[Mesh]:
    """Three services that ask for affinity, one of them by a mistyped header, over the sample's pods; the sample's own is a fourth."""
    objects = [item for name, header in SERVICES.items() for item in service_objects(name, header)]
    mesh.apply(*objects)
    # It opts in by itself.
    mesh.kubectl("-n", mesh.namespace, "annotate", "service", "cart", "meshops.istio/probe=/verify/cart", "meshops.istio/probe-key=header:user-session")
    yield mesh
    mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules", *SERVICES, "--ignore-not-found")


@pytest.fixture
def estate(ansible: Ansible, tmp_path: Path) -> Estate:
    return Estate(ansible, tmp_path)


class _Receiver(BaseHTTPRequestHandler):
    """A web server that takes what is PUT there."""

    got: dict[str, bytes]

    def do_PUT(self) -> None:
        self.got[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        """Nothing: what it got is what counts."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, dict[str, bytes]]]:
    got: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Receiver", (_Receiver,), {"got": got}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def _day(days: int) -> str:
    return (datetime.now(UTC).date() + timedelta(days=days)).isoformat()


def _waiver(mesh: Mesh, until: str) -> list[dict[str, str]]:
    return [{"service": f"{mesh.namespace}/{BROKEN}", "match": "failed", "owner": "team", "reason": "known", "until": until}]


def test_an_estate(services: Mesh, estate: Estate, lab: Path, tmp_path: Path, receiver: tuple[str, dict[str, bytes]]) -> None:
    """Six clusters at once: one red, one waived, one whose waiver has ended, two that can't be reached, one where nobody opted in. Then
    the mend, in the middle of a rollout."""
    mesh = services
    dead = tmp_path / "dead.kubeconfig"
    dead.write_text("".join(line if "server:" not in line else "    server: https://127.0.0.1:9\n" for line in lab.read_text().splitlines(keepends=True)))
    url, got = receiver
    broken = {"istio_affinity_services": [entry(mesh, BROKEN)]}
    hosts = {
        "red": {
            "istio_affinity_services": [entry(mesh, name) for name in (BROKEN, "search")],
            "istio_affinity_rate": 20,
            "istio_affinity_sink_http": {"url": url},
            "istio_affinity_sink_pushgateway": {"url": url},
        },
        "waived": broken | {"istio_affinity_waivers": _waiver(mesh, _day(0))},
        "expired": broken | {"istio_affinity_waivers": _waiver(mesh, _day(-1))},
        "dead": broken | {"istio_cluster_kubeconfig": str(dead)},
        "gone": {"istio_cluster_kubeconfig": str(tmp_path / "none")},
        "static": {"istio_affinity_services": [entry(mesh, "cart", probe=False)]},
    }
    # Each asks from the same test pod with paths of its own, so that nginx's log can tell the gentle one's from the others'; and for that service alone.
    for name in ("waived", "expired"):
        hosts[name] |= {"istio_affinity_services": [entry(mesh, BROKEN, path=f"/{name}")], "istio_affinity_namespaces": ["default"]}
    before = mesh.requests_seen()
    ran = estate.verify(hosts, istio_affinity_namespaces=[mesh.namespace], env={"ANSIBLE_SHOW_CUSTOM_STATS": "1"}).expect(2)

    found = {name: outcome(ran, name) for name in hosts}
    assert {name: result["status"] for name, result in found.items()} == {
        "red": "red",
        "waived": "green",
        "expired": "red",
        "dead": "red",
        "gone": "red",
        "static": "green",
    }, ran
    # All three were probed, though the first one failed; the fourth asks for affinity and did not opt in.
    assert judged(found["red"]) == {
        BROKEN: ("failed", "red"),
        "cart": ("passed", "green"),
        "search": ("passed", "green"),
        "nginx-service": ("sticks", "green"),
    }, found["red"]["services"]
    assert judged(found["waived"])[BROKEN] == ("failed", "waived")
    assert judged(found["expired"])[BROKEN] == ("failed", "red")
    assert "API server https://127.0.0.1:9 " in found["dead"]["problems"][0]
    assert judged(found["dead"]) == {BROKEN: ("error", "red")}
    assert "There is no kubeconfig at" in found["gone"]["problems"][0]
    # Nobody opted in there: all are judged, nothing is sent, and it says how to.
    assert {service["service"] for service in found["static"]["services"] if service["mode"] == "static"} == {*SERVICES, "nginx-service"}
    assert mesh.requests_seen() == before
    assert f"kubectl -n {mesh.namespace} annotate service nginx-service meshops.istio/probe=/ meshops.istio/probe-key=header:user-session" in " ".join(
        ran.stdout.split()
    )
    # Gently: 20 a second over all services of the cluster.
    busy = seconds(mesh, "/verify/")
    assert sum(busy) > 150
    assert max(busy) <= 20
    # Where it is told: files, sinks, statistics, the table at the end.
    report = estate.report("red")
    assert (report["cluster"], report["status"]) == ("red", "red")
    assert {path for path in got if path.startswith("/red/")} == {f"/red/{name}" for name in ("report.json", "junit.xml", "affinity.prom", "index.html")}
    assert b"istio_affinity_verdict" in got["/metrics/job/istio_affinity/instance/red"]
    assert "CUSTOM STATS" in ran.stdout
    table = ran.named("Show the outcome of every cluster").result["msg"]
    assert {line for line in table if not line.startswith(" ")} == {f"{name}: {result['status']}" for name, result in found.items()}
    assert {name for name, counts in ran.stats.items() if counts["failures"]} == {"red", "expired", "dead", "gone"}

    mesh.patch("destinationrule", BROKEN, {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}}})
    # How gently it probes has been seen.
    again = {name: hosts[name] | {"istio_affinity_rate": 2000} for name in ("red", "expired")}
    mended = estate.verify(again, istio_affinity_namespaces=[mesh.namespace]).expect(0)
    assert judged(outcome(mended, "red"))[BROKEN] == ("passed", "green")
    assert [past["verdict"] for service in estate.report("red")["services"] if service["service"] == BROKEN for past in service["history"]] == [
        "failed",
        "passed",
    ]


@contextlib.contextmanager
def rollouts_all_the_time(mesh: Mesh) -> Iterator[list[int]]:
    """A new one as soon as the last has ended, or some seconds later; the list has an item for each that has ended."""
    ended: list[int] = []
    over = threading.Event()
    chance = random.Random("rollouts")

    def roll() -> None:
        while not over.is_set():
            mesh.kubectl("-n", mesh.namespace, "rollout", "restart", "deployment/nginx-deployment")
            mesh.kubectl("-n", mesh.namespace, "rollout", "status", "deployment/nginx-deployment", "--timeout=120s")
            ended.append(len(ended))
            over.wait(chance.uniform(0, 6))

    thread = threading.Thread(target=roll)
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


@pytest.mark.full
def test_rollouts_make_nothing_red_and_a_rule_that_is_gone_is_red_by_the_next_run(services: Mesh, broken: Mesh, estate: Estate, record_property: Any) -> None:
    """Each cluster of the inventory is the lab, with a history of its own, so that one run of three is three runs."""
    mesh = broken
    listed = {"istio_affinity_services": [entry(mesh, name) for name in ("search", "nginx-service")]}
    hosts = {f"cluster-{number}": listed for number in range(min(AT_ONCE, CHURN_RUNS))}
    options: dict[str, Any] = {"istio_affinity_namespaces": [mesh.namespace], "istio_affinity_timeout": 30}
    seen: Counter[tuple[str, str]] = Counter()
    with rollouts_all_the_time(mesh) as rollouts:
        for _round in range(CHURN_RUNS // len(hosts)):
            ran = estate.verify(hosts, **options)
            for name in hosts:
                found = outcome(ran, name)
                seen.update(judged(found).values())
                assert (found["status"], found["problems"]) == ("green", []), ran
        assert len(rollouts) >= CHURN_RUNS // len(hosts), "the rollouts ended before their time"
        mesh.delete("destinationrule", "nginx-destinationrule")
        gone = outcome(estate.verify({"cluster-0": listed}, **options).expect(2), "cluster-0")
    record_property("verdicts", f"{len(rollouts)} rollouts, {dict(seen)}; without the rule {judged(gone)}")
    statuses = {service: status for service, (_verdict, status) in judged(gone).items()}
    assert statuses == {"nginx-service": "red", "search": "green", "cart": "green", BROKEN: "green"}, gone


def test_what_is_wrong_with_an_annotation_is_said_and_check_mode_sends_nothing(services: Mesh, estate: Estate) -> None:
    """Whoever may annotate a Service may not have Ansible evaluate anything."""
    mesh = services
    mesh.kubectl("-n", mesh.namespace, "annotate", "service", "search", "meshops.istio/probe={{ 6 * 7 }}", "meshops.istio/probe-key=user-session")
    before = sum(seconds(mesh, "/verify/"))
    try:
        planned = estate.verify({"lab": {}}, check=True, istio_affinity_namespaces=[mesh.namespace]).expect(0)
    finally:
        mesh.kubectl("-n", mesh.namespace, "annotate", "service", "search", "meshops.istio/probe-", "meshops.istio/probe-key-")
    said = "\n".join(outcome(planned, "lab")["table"])
    assert f"87 requests would go to {mesh.namespace}/cart:80" in said
    assert "meshops.istio/probe is '{{ 6 * 7 }}'; it must be a path" in said
    assert "meshops.istio/probe-key is 'user-session'; it must be header:<name>" in said
    assert sum(seconds(mesh, "/verify/")) == before
    assert not (estate.folder / "reports").exists()


def test_it_stops_for_the_services_sake(broken: Mesh) -> None:
    """At the first 429, with at most the one that is in flight beside it; at more than 2 % of 5xx, here 2 of 87."""
    for status, most in ((429, 2), (503, 8)):
        abort = {"fault": {"abort": {"httpStatus": status, "percentage": {"value": 100}}}, "route": [{"destination": {"host": "nginx-service"}}]}
        broken.patch("virtualservice", "nginx-virtualservice", {"spec": {"http": [abort]}})
        # One curl waits for it: each kubectl costs a good part of a second.
        code = f"until [ $(curl -s -o /dev/null -w '%{{http_code}}' http://nginx-service/) = {status} ]; do sleep 0.2; done"
        broken.kubectl("-n", broken.namespace, "exec", "test-pod", "-c", "curl", "--", "timeout", "90", "sh", "-c", code)
        result = broken.look(profile="quick", rate=20, concurrency=4, stop_on={"statuses": [429], "server_errors": 0.02})
        assert (result["verdict"], result["error"]["code"]) == ("inconclusive", "stopped"), result["msg"]
        assert "The check stopped: " in result["msg"]
        assert 1 <= result["requests"]["sent"] <= most, status


def test_caps(mesh: Mesh) -> None:
    """A plan over the cap is refused before the first request."""
    before = mesh.requests_seen()
    result = mesh.look(profile="quick", max_requests=86)
    assert (result["verdict"], result["error"]["code"]) == ("error", "too_many_requests"), result["msg"]
    assert "87 requests are planned and max_requests is 86" in result["msg"]
    assert mesh.requests_seen() == before
    for option in ({"max_requests": 0}, {"stop_on": {"statuses": [42]}}, {"stop_on": {"server_errors": 2.0}}):
        refused = mesh.look(**option)
        assert refused["error"]["code"] == "bad_option", refused["msg"]
        assert next(iter(option)) in refused["msg"]


def test_bad_options_are_refused_before_anything_is_touched(mesh: Mesh, estate: Estate) -> None:
    twice = {"namespace": mesh.namespace, "service": "nginx-service", "key": KEY}
    hosts = {
        "twice": {"istio_affinity_services": [twice, twice]},
        "waiver": {"istio_affinity_waivers": _waiver(mesh, "tomorrow")},
        "sink": {"istio_affinity_sink_configmap": {"name": "x"}},
        "spec": {"istio_affinity_services": [{"service": "nginx-service"}]},
    }
    before = mesh.requests_seen()
    ran = estate.verify(hosts).expect(2)
    said = {name: " ".join(outcome(ran, name)["problems"]) for name in hosts}
    assert f"istio_affinity_services names {mesh.namespace}/nginx-service twice" in said["twice"]
    assert "Option waivers[0].until is tomorrow; it must be a day written as YYYY-MM-DD." in said["waiver"]
    assert "istio_affinity_sink_configmap needs namespace and name" in said["sink"]
    assert "missing required arguments: namespace" in said["spec"]
    assert mesh.requests_seen() == before
