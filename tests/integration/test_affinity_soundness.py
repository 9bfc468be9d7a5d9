# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often the verdict is right, counted. A few of each in `make test`; as many as docs/verdict.md has in `make soundness`."""

from __future__ import annotations

import copy
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from affinity_support import Mesh, hashing, parts_of, probe_pod
from soundness.simulate import one_window

CHECKS = int(os.environ.get("ISTIO_SOUNDNESS_CHECKS", "1"))
# Of 200 checks with and without the rule: 100 over the five kinds of events, 50 of everything else.
OF_EACH_EVENT = -(-CHECKS // 10)
OF_OTHERS = -(-CHECKS // 4)
WINDOWS = int(os.environ.get("ISTIO_SOUNDNESS_WINDOWS", "3000"))
RULE = ("destinationrule", "nginx-destinationrule")
# Without it three pods are test_affinity_check.py's, and a rollout too.
FULL = pytest.mark.full

Results = list[dict[str, Any]]
Repeat = Callable[..., Results]


def verdicts(results: Results) -> Counter[str]:
    return Counter(str(result["verdict"]) for result in results)


@pytest.fixture
def repeat(capsys: pytest.CaptureFixture[str]) -> Repeat:
    """Make a check this often; where that takes long, a word each minute on how it goes."""

    def results(what: str, number: int, check: Callable[[], dict[str, Any]]) -> Results:
        found: Results = []
        told = time.monotonic()
        for _number in range(number):
            found.append(check())
            if time.monotonic() - told > 60:
                told = time.monotonic()
                with capsys.disabled():
                    # A worker's standard output is not the terminal; its standard error is.
                    sys.stderr.write(f"{what}: {len(found)} of {number}, {dict(verdicts(found))}\n")
        return found

    return results


@pytest.fixture(scope="module")
def ruleless(mesh: Mesh) -> Iterator[str]:
    """A service over the sample's pods without a rule."""
    mesh.apply(*parts_of("ruleless"))
    mesh.wait_for("proxy.lb_policy == 'LEAST_REQUEST'", "ruleless")
    yield "ruleless"
    mesh.delete("service", "ruleless")


@FULL
@pytest.mark.parametrize("pods", [2, 3, 6])
def test_a_healthy_mesh_always_passes_and_one_without_the_rule_always_fails(
    broken: Mesh, ruleless: str, pods: int, repeat: Repeat, record_property: Any
) -> None:
    broken.scale(pods)
    healthy = repeat(f"{pods} pods, healthy", CHECKS, broken.look)
    broken.wait_for(f"proxy.hosts | length == {pods}", ruleless)
    failing = repeat(f"{pods} pods, without the rule", CHECKS, lambda: broken.look(service=ruleless))
    record_property("verdicts", f"{pods} pods: healthy {dict(verdicts(healthy))}, without the rule {dict(verdicts(failing))}")
    assert verdicts(healthy) == {"passed": CHECKS}, [result["msg"] for result in healthy if result["verdict"] != "passed"]
    assert verdicts(failing) == {"failed": CHECKS}, [result["msg"] for result in failing if result["verdict"] != "failed"]


def rollout(mesh: Mesh) -> None:
    mesh.kubectl("-n", mesh.namespace, "rollout", "restart", "deployment/nginx-deployment")


def scale_up(mesh: Mesh) -> None:
    mesh.kubectl("-n", mesh.namespace, "scale", "deployment/nginx-deployment", "--replicas=4")


def scale_down(mesh: Mesh) -> None:
    mesh.kubectl("-n", mesh.namespace, "scale", "deployment/nginx-deployment", "--replicas=2")


def kill_a_pod(mesh: Mesh) -> None:
    mesh.kubectl("-n", mesh.namespace, "delete", "pod", mesh.pods()[0]["metadata"]["name"], "--wait=false")


def change_the_rule(mesh: Mesh) -> None:
    mesh.patch(*RULE, {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "other"}}}}})


EVENTS = [*(pytest.param(event, marks=FULL) for event in (rollout, scale_up, scale_down, change_the_rule)), kill_a_pod]


def quiet(mesh: Mesh) -> None:
    """As it was: three ready pods, the rule, and Envoy knows it."""
    mesh.patch(*RULE, {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "user-session"}}}}})
    mesh.scale(3)
    mesh.wait_until("the sample is as it was", lambda: mesh.look(profile="quick")["verdict"] == "passed")


@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_at_a_random_moment_is_never_passed_over_nor_taken_for_a_failure(
    broken: Mesh, event: Callable[[Mesh], None], repeat: Repeat, record_property: Any
) -> None:
    chance = random.Random(event.__name__)

    def check() -> dict[str, Any]:
        quiet(broken)
        moment = threading.Timer(chance.uniform(0, 6), event, (broken,))
        moment.start()
        # Some eight seconds, so that most of a rollout fits in.
        result = broken.look(rate=22)
        moment.join()
        return result

    results = repeat(event.__name__, OF_EACH_EVENT, check)
    record_property("verdicts", f"{event.__name__}: {dict(verdicts(results))}")
    for result in results:
        moved = [session for session in result["sessions"] if session["moved"]]
        assert not (result["verdict"] == "passed" and moved), result["msg"]
        assert not (result["verdict"] == "failed" and all(session["explained"] for session in moved)), result["msg"]
        if event is not change_the_rule:
            assert result["verdict"] in ("passed", "inconclusive"), json.dumps(moved[:3]) + result["msg"]


@pytest.fixture
def churn(broken: Mesh) -> Iterator[None]:
    """Pods come and go all the time."""
    stop = threading.Event()

    def stir() -> None:
        while not stop.is_set():
            for replicas in (4, 3):
                broken.kubectl("-n", broken.namespace, "scale", "deployment/nginx-deployment", f"--replicas={replicas}")
                stop.wait(3)

    thread = threading.Thread(target=stir)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_no_rule_is_failed_under_constant_churn_too(broken: Mesh, ruleless: str, churn: None, repeat: Repeat, record_property: Any) -> None:
    broken.wait_until("a pod has come", lambda: len(broken.pods()) > 3)
    results = repeat("no rule, pods come and go", OF_OTHERS, lambda: broken.look(service=ruleless))
    record_property("verdicts", f"no rule, pods come and go: {dict(verdicts(results))}")
    assert verdicts(results) == {"failed": OF_OTHERS}, [result["msg"] for result in results]


@pytest.fixture
def canary(mesh: Mesh) -> Iterator[None]:
    """Two more pods, of a Deployment of their own."""
    spec = copy.deepcopy(mesh.objects["deployment/nginx-deployment"]["spec"])
    labels = {"app": "nginx", "version": "canary"}
    spec |= {"replicas": 2, "selector": {"matchLabels": labels}}
    spec["template"]["metadata"]["labels"] = labels
    mesh.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "nginx-canary"}, "spec": spec})
    mesh.kubectl("-n", mesh.namespace, "rollout", "status", "deployment/nginx-canary", "--timeout=90s")
    yield
    mesh.delete("deployment", "nginx-canary")
    mesh.wait_until("its pods are gone", lambda: not mesh.pods("version=canary"))


@pytest.mark.parametrize(("weights", "profile"), [((90, 10), "default"), pytest.param((99, 1), "deep", marks=FULL)])
def test_a_weighted_split_is_always_caught(mesh: Mesh, canary: None, weights: tuple[int, int], profile: str, repeat: Repeat, record_property: Any) -> None:
    """Two subsets of the same pods: by the pod template's hash, one Deployment each."""
    name = f"weighted-{weights[1]}"
    # The stable pods are those without the label, which a subset can't say; so the stable subset is all of them.
    subsets = [{"name": "all", "labels": {"app": "nginx"}}, {"name": "canary", "labels": {"version": "canary"}}]
    destinations = [{"destination": {"host": name, "subset": subset["name"]}, "weight": weight} for subset, weight in zip(subsets, weights, strict=True)]
    mesh.apply(*parts_of(name, hashing() | {"subsets": subsets}, [{"route": destinations}], labels={"weighted": "yes"}))
    try:
        mesh.wait_until(
            "Envoy has both subsets and the weights",
            lambda: f"canary|{name}." in mesh.envoy("clusters") and f"canary|{name}." in mesh.envoy("config_dump?resource=dynamic_route_configs"),
        )
        results = repeat(f"weights {weights}", OF_OTHERS, lambda: mesh.look(service=name, profile=profile))
        record_property("verdicts", f"weights {weights}, profile {profile}: {dict(verdicts(results))}")
        assert verdicts(results) == {"failed": OF_OTHERS}, [result["msg"] for result in results]
    finally:
        mesh.kubectl("-n", mesh.namespace, "delete", "services,destinationrules.networking.istio.io,virtualservices.networking.istio.io", "-l", "weighted")


@pytest.fixture
def two_zones(broken: Mesh) -> Iterator[Mesh]:
    """Four pods over two zones, and a client in each zone."""
    here = broken.node_of_client()
    broken.apply(probe_pod("test-pod-b", {"node-1": "node-2", "node-2": "node-1"}[here]))
    broken.kubectl("-n", broken.namespace, "wait", "pod/test-pod-b", "--for=condition=Ready", "--timeout=90s")
    # Anew, so that they are spread over both nodes.
    broken.scale(1)
    broken.scale(4)
    assert {pod["spec"]["nodeName"] for pod in broken.pods()} == {"node-1", "node-2"}
    yield broken
    broken.delete("pod", "test-pod-b")


# The lab of `make test` has one node, and so one zone; `make soundness` starts a second one.
if "ISTIO_SOUNDNESS_CHECKS" in os.environ:

    def test_a_locality_split_is_never_passed(two_zones: Mesh, repeat: Repeat, record_property: Any) -> None:
        mesh = two_zones
        agreeing = repeat("two zones, no split", OF_OTHERS, mesh.look)
        mesh.patch("service", "nginx-service", {"spec": {"trafficDistribution": "PreferSameZone"}})
        mesh.wait_for("not proxy.in_sync")
        split = repeat("two zones, split", OF_OTHERS, mesh.look)
        alone = repeat("two zones, one client", OF_OTHERS, lambda: mesh.look(client={"pod": "test-pod"}))
        told = {name: dict(verdicts(found)) for name, found in (("no split", agreeing), ("two clients", split), ("one client", alone))}
        record_property("verdicts", f"two zones: {told}")
        assert verdicts(agreeing) == {"passed": OF_OTHERS}, [found["msg"] for found in agreeing]
        assert verdicts(split) == {"failed": OF_OTHERS}, [found["msg"] for found in split]
        assert verdicts(alone) == {"not_proven": OF_OTHERS}, [found["msg"] for found in alone]
        assert all(len(found["clients"]) == 2 for found in (*agreeing, *split))


def test_generated_windows_of_known_truth() -> None:
    wrong = [seed for seed in range(WINDOWS) if one_window(seed)[2]]
    assert wrong == [], "python tests/soundness/simulate.py shows more"
