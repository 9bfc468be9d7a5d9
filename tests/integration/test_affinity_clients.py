# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of every shape: several by their label, one for each zone, in other namespaces, with less in their image than is needed."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from affinity_support import HEADER, Mesh, curl_pod, hashing, parts_of

PROBES = {"selector": "zone-probe=true"}
DEBIAN = "docker.io/library/debian:bookworm-slim"
# What Istio and the kubelet would find on two nodes in two zones; so the lab needs only one.
ZONES = ("zone-a", "zone-b")
# Services over the same pods: as it should be; one client has a rule of its own; two ways to keep requests in their zone.
AGREED, DIFFERING, OUTLIER, SAME_ZONE = "zoned", "zoned-differing", "zoned-outlier", "zoned-same-zone"


def placed(deployment: dict[str, Any], zone: str) -> dict[str, Any]:
    """The sample's deployment once more, with two pods in a zone by Istio's own label for that."""
    labels = {"app": "zoned", "place": zone}
    found = copy.deepcopy(deployment)
    found["metadata"] = {"name": f"nginx-{zone}"}
    found["spec"] |= {"replicas": 2, "selector": {"matchLabels": labels}}
    found["spec"]["template"]["metadata"]["labels"] = labels | {"istio-locality": f"lab.{zone}"}
    return found


def probe(name: str, zone: str) -> dict[str, Any]:
    pod = curl_pod(name)
    pod["metadata"]["labels"] = {"app": name, "zone-probe": "true", "istio-locality": f"lab.{zone}"}
    return pod


def services() -> list[dict[str, Any]]:
    outlier = hashing()
    outlier["trafficPolicy"]["outlierDetection"] = {"consecutive5xxErrors": 5}
    here: dict[str, Any] = {"selector": {"app": "zoned"}, "labels": {"zoned": "yes"}}
    special = hashing(**HEADER, maglev={"tableSize": 65537}) | {"host": DIFFERING, "workloadSelector": {"matchLabels": {"app": "probe-3"}}}
    meta = {"name": "for-one-client", "labels": {"zoned": "yes"}}
    return [
        *parts_of(AGREED, hashing(), **here),
        *parts_of(DIFFERING, hashing(), **here),
        {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": special},
        *parts_of(OUTLIER, outlier, **here),
        *parts_of(SAME_ZONE, hashing(), trafficDistribution="PreferSameZone", **here),
    ]


@pytest.fixture(scope="module")
def zones(mesh: Mesh) -> Iterator[Mesh]:
    """Two backends in each of two zones, two probes in the first zone and one in the second."""
    probes = {"probe-1": "zone-a", "probe-2": "zone-a", "probe-3": "zone-b"}
    names = [f"pod/{name}" for name in probes]
    deployments = [f"deployment/nginx-{zone}" for zone in ZONES]
    mesh.apply(*(placed(mesh.objects["deployment/nginx-deployment"], zone) for zone in ZONES), *(probe(name, zone) for name, zone in probes.items()))
    mesh.apply(*services())
    for deployment in deployments:
        mesh.kubectl("-n", mesh.namespace, "rollout", "status", deployment, "--timeout=120s")
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", *names, "--timeout=120s")
    for zone in ZONES:
        here = [name for name, of in probes.items() if of == zone]
        mesh.kubectl("-n", mesh.namespace, "label", "pod", *here, f"topology.kubernetes.io/zone={zone}", "--overwrite")
    mesh.wait_for("proxy.in_sync", AGREED, **PROBES, max=3)
    for service in (OUTLIER, SAME_ZONE):
        prefers = functools.partial(mesh.hosts, "priority", service)
        mesh.wait_until(f"the Envoys prefer their zone for {service}", lambda prefers=prefers: all("1" in prefers(pod).values() for pod in probes))
    yield mesh
    rules = ("services", "destinationrules.networking.istio.io")
    mesh.kubectl("-n", mesh.namespace, "delete", "--wait=false", *names, *deployments)
    mesh.kubectl("-n", mesh.namespace, "delete", ",".join(rules), "-l", "zoned")


def look(zones: Mesh, service: str = AGREED, **options: Any) -> dict[str, Any]:
    return zones.look(**{"service": service, "client": PROBES} | options)


def test_one_probe_of_each_zone_is_the_default(zones: Mesh) -> None:
    result = look(zones)
    assert result["verdict"] == "passed", result["msg"]
    assert [(client["pod"], client["zone"]) for client in result["clients"]] == [("probe-1", "zone-a"), ("probe-3", "zone-b")]
    assert all(f"{zones.namespace}/{name} (zone {zone})" in result["measured"] for name, zone in (("probe-1", "zone-a"), ("probe-3", "zone-b")))
    # 52 sessions for four backends, 3 requests each and 15 without the key, from each of the two.
    assert result["requests"]["planned"] == result["requests"]["identified"] == 2 * (52 * 3 + 15)
    for session in result["sessions"]:
        assert {name: sum(pods.values()) for name, pods in session["by_client"].items()} == {f"{zones.namespace}/{name}": 3 for name in ("probe-1", "probe-3")}
        assert len(session["pods"]) == 1


def test_as_many_as_were_asked_for_probe_and_share_the_rate(zones: Mesh) -> None:
    result = look(zones, client=PROBES | {"max": 3}, sessions=20, requests=2, rate=60, max_flip_rate=0.2)
    assert result["verdict"] == "passed", result["msg"]
    assert [client["pod"] for client in result["clients"]] == ["probe-1", "probe-2", "probe-3"]
    # 55 requests each, of which the first second takes 60.
    assert result["requests"]["sent"] == 165
    assert result["elapsed"] > 1.5


def test_clients_that_stick_to_different_pods_fail_together(zones: Mesh) -> None:
    """Each client alone is steady: only the same value, compared between them, shows that they do not agree. That of 100
    sessions none agrees by chance, or all do, happens less than once in a million million times."""
    assert "MAGLEV" in zones.envoy(f"config_dump?resource=dynamic_active_clusters&name_regex=.*{DIFFERING}.*", "probe-3")
    alone = [look(zones, DIFFERING, client={"pod": pod}, profile="quick", sessions=100) for pod in ("probe-1", "probe-3")]
    together = look(zones, DIFFERING, profile="quick", sessions=100)
    assert [result["verdict"] for result in alone] == ["passed", "passed"], [result["msg"] for result in alone]
    assert together["verdict"] == "failed", together["msg"]
    moved = [session for session in together["sessions"] if session["moved"]]
    assert 0 < len(moved) < len(together["sessions"])
    assert all(len(pods) == 1 for session in moved for pods in session["by_client"].values())


@pytest.mark.parametrize("service", [OUTLIER, SAME_ZONE], ids=["outlier detection", "traffic distribution"])
def test_a_locality_split_is_never_passed(zones: Mesh, service: str) -> None:
    """One client sees nothing move, as it uses only the backends of its zone; two clients of two zones see it all."""
    one = look(zones, service, client=PROBES | {"max": 1}, profile="quick")
    assert one["verdict"] == "not_proven", one["msg"]
    assert "ready backends that are not eligible in a client's Envoy" in one["msg"]
    assert sorted(backend["eligible"] for backend in one["backends"]) == [False, False, True, True]
    two = look(zones, service, profile="quick")
    assert two["verdict"] == "failed", two["msg"]
    assert all(session["moved"] for session in two["sessions"])


@pytest.mark.parametrize("injection", [True, False], ids=["in the mesh", "outside"])
def test_a_client_in_another_namespace(mesh: Mesh, namespace: Callable[..., str], injection: bool) -> None:
    where = namespace(injection=injection)
    mesh.kubectl("-n", where, "apply", "-f", "-", stdin=json.dumps(curl_pod("far")))
    mesh.kubectl("-n", where, "wait", "--for=condition=Ready", "pod/far", "--timeout=120s")
    result = mesh.look(client={"namespace": where, "pod": "far"}, profile="quick")
    assert f"{where}/far" in result["measured"]
    assert f"http://nginx-service.{mesh.namespace}/" in result["measured"]
    assert (result["verdict"], result["clients"][0]["sidecar"]) == (("passed", True) if injection else ("failed", False)), result["msg"]
    assert ("has no sidecar" in result["msg"]) is not injection


@pytest.fixture(scope="module")
def poor(mesh: Mesh) -> Iterator[dict[str, str]]:
    """A pod with containers that lack something, and the words that say so."""
    lacking = {
        "debian": {"image": DEBIAN, "command": ["sleep", "infinity"]},
        "static": {"image": "registry.k8s.io/pause:3.10.2"},
        "old": {"image": DEBIAN, "command": ["sleep", "infinity"], "volumeMounts": [{"name": "old", "mountPath": "/usr/local/bin"}]},
    }
    pod = curl_pod("poor")
    pod["metadata"]["annotations"] = {"sidecar.istio.io/inject": "false"}
    pod["metadata"]["labels"] = {"sidecar.istio.io/inject": "false"}
    pod["spec"]["containers"] = [{"name": name, **container} for name, container in lacking.items()]
    pod["spec"]["volumes"] = [{"name": "old", "configMap": {"name": "old-curl", "defaultMode": 0o755}}]
    # No image of the lab has a curl of that age, so something says that it is one.
    script = "#!/bin/sh\necho 'curl 7.76.1 (x86_64-redhat-linux-gnu) libcurl/7.76.1 OpenSSL/3.0.7'\n"
    mesh.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old-curl"}, "data": {"curl": script}}, pod)
    mesh.kubectl("-n", mesh.namespace, "wait", "--for=condition=Ready", "pod/poor", "--timeout=120s")
    where = f"pod {mesh.namespace}/poor. Next: use a client pod whose image has"
    yield {
        "debian": f"no_curl: There is no curl in container debian of {where} curl 7.84.0 or newer",
        "static": f"no_shell: There is no sh in container static of {where} sh and curl",
        "old": f"old_curl: curl 7.76.1 in container old of pod {mesh.namespace}/poor is too old. Next: use a client pod whose image has curl 7.84.0",
    }
    mesh.kubectl("-n", mesh.namespace, "delete", "pod/poor", "configmap/old-curl", "--wait=false")


@pytest.mark.parametrize("container", ["debian", "static", "old"])
def test_an_image_that_lacks_something_is_told_in_words(mesh: Mesh, poor: dict[str, str], container: str) -> None:
    result = mesh.look(client={"pod": "poor", "container": container})
    assert result["verdict"] == "error"
    assert f"{result['error']['code']}: {result['error']['msg']}".startswith(poor[container]), result["msg"]
    assert result["requests"]["sent"] == 0
