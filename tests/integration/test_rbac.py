# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""verify with the account that the collection ships, and with less; the probe pod; and that the cluster is left as it was."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from affinity_support import Mesh
from verify_support import FILES, Estate, differences, entry, judged, outcome, seconds, snapshot, token_kubeconfig

from harness import Ran

if TYPE_CHECKING:
    from integration.conftest import Ansible, Kubectl

NAMESPACE = ACCOUNT = "meshops-istio-verify"
PROBES = f"{NAMESPACE}-probes"
POD = "meshops-istio-probe"


@pytest.fixture(scope="module")
def account(mesh: Mesh, kubectl: Kubectl, lab: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The kubeconfig of the shipped account, with all that was shipped for it applied."""
    kubectl("delete", "namespace", NAMESPACE, PROBES, "--ignore-not-found", "--timeout=120s")
    folders = [FILES / name for name in ("rbac", "rbac-probe-pod", "rbac-configmap")]
    for folder in folders:
        kubectl("apply", "-f", str(folder))
    yield token_kubeconfig(kubectl, lab, tmp_path_factory.mktemp("rbac"), NAMESPACE, ACCOUNT)
    for folder in reversed(folders):
        kubectl("delete", "-f", str(folder), "--ignore-not-found", "--wait=false")


@dataclass
class PodWatch:
    """What the probe pod looked like while it was there."""

    kubectl: Kubectl
    seen: dict[str, Any] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self.over.is_set() and not self.seen:
            found: Ran = self.kubectl("-n", PROBES, "get", "pod", POD, "--ignore-not-found", "-o", "json")
            self.seen = json.loads(found.stdout) if found.stdout.strip() else {}
            time.sleep(0.5)


def test_the_shipped_account_is_enough_and_leaves_the_cluster_as_it_was(mesh: Mesh, account: Path, ansible: Ansible, kubectl: Kubectl, tmp_path: Path) -> None:
    """By that account's token alone, with a probe pod, a service that passes and one that fails; beside it one whose probe pod can't start."""
    estate = Estate(ansible, tmp_path)
    wrong = entry(mesh, "nginx-service", port=80, key={"type": "header", "name": "x-session"})
    common = {"istio_affinity_probe_pod": True, "istio_affinity_namespaces": [mesh.namespace]}
    shipped = {"istio_cluster_kubeconfig": str(account), "istio_affinity_services": [wrong, entry(mesh, "nginx-service")]}
    # Another name, as the other run is using that one; the shipped account may not delete it, so this one is the lab's.
    stuck = {
        "istio_affinity_probe_pod_name": "no-image",
        "istio_affinity_probe_pod_image": "registry.example.com/no/such:image",
        "istio_affinity_probe_pod_wait_timeout": 5,
        "istio_affinity_services": [entry(mesh, "nginx-service")],
    }
    looked_at = (mesh.namespace, NAMESPACE, PROBES, "default", "istio-system", "kube-system", "sample")
    watch = PodWatch(kubectl)
    thread = threading.Thread(target=watch.look)
    before = snapshot(kubectl, *looked_at)
    thread.start()
    try:
        ran = estate.verify({"shipped": common | shipped, "stuck": common | stuck}).expect(2)
    finally:
        watch.over.set()
        thread.join()
    assert differences(before, snapshot(kubectl, *looked_at)) == []
    found = outcome(ran, "shipped")
    assert found["problems"] == [], ran
    assert sorted(service["verdict"] for service in found["services"]) == ["failed", "passed"]
    assert sum(task.changed for task in ran.tasks if task.host == "shipped" and "report" not in task.action) == 2
    assert judged(outcome(ran, "stuck"))["nginx-service"] == ("error", "red")
    (why,) = [service["why"] for service in outcome(ran, "stuck")["services"]]
    assert "is not ready after 5 s" in why
    assert "container curl" in why
    _is_restrained(watch.seen, kubectl)


def _is_restrained(pod: dict[str, Any], kubectl: Kubectl) -> None:
    """Labelled, owned, with a deadline, without a token, and, without what the sidecar brings, fit for a restricted namespace."""
    meta, spec = pod["metadata"], pod["spec"]
    assert meta["labels"].items() >= {"meshops.istio/probe": "true", "app.kubernetes.io/managed-by": "meshops.istio"}.items()
    assert [(owner["kind"], owner["name"]) for owner in meta["ownerReferences"]] == [("Namespace", PROBES)]
    assert meta["ownerReferences"][0]["controller"], "kubectl drain evicts it"
    assert spec["activeDeadlineSeconds"] == 3600
    assert spec["automountServiceAccountToken"] is False
    (container,) = (entry for entry in spec["containers"] if entry["name"] == "curl")
    assert container["resources"]["limits"]
    assert not [mount for mount in container["volumeMounts"] if "serviceaccount" in mount["mountPath"]]
    scratch = [volume for volume in spec["volumes"] if volume["name"] == "scratch"]
    bare = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": POD, "labels": {"sidecar.istio.io/inject": "false"}},
        "spec": {"containers": [container], "volumes": scratch, "securityContext": spec["securityContext"], "automountServiceAccountToken": False},
    }
    kubectl("create", "namespace", "verify-restricted")
    kubectl("label", "namespace", "verify-restricted", "pod-security.kubernetes.io/enforce=restricted")
    try:
        kubectl("-n", "verify-restricted", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(bare))
        bare["spec"]["securityContext"] = {}
        refused = kubectl("-n", "verify-restricted", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(bare), codes=(1,))
        assert "violates PodSecurity" in refused.stderr
    finally:
        kubectl("delete", "namespace", "verify-restricted", "--wait=false")


def test_a_probe_pod_that_is_there_already(mesh: Mesh, account: Path, ansible: Ansible, kubectl: Kubectl, tmp_path: Path) -> None:
    """Somebody else's is left alone, another run's is not taken away, and nothing is sent."""
    labels = {"app.kubernetes.io/managed-by": "meshops.istio", "app.kubernetes.io/part-of": "istio-affinity"}
    spec = {"containers": [{"name": "curl", "image": "docker.io/curlimages/curl:8.16.0", "command": ["sleep", "600"]}], "terminationGracePeriodSeconds": 0}
    pods = {"theirs": {}, "other-run": labels}
    for name, own in pods.items():
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": own | {"sidecar.istio.io/inject": "false"}}, "spec": spec}
        kubectl("-n", PROBES, "create", "-f", "-", stdin=json.dumps(made))
    services = [entry(mesh, "nginx-service", path="/already")]
    hosts = {
        name: {
            "istio_affinity_probe_pod": True,
            "istio_affinity_probe_pod_name": name,
            "istio_affinity_namespaces": [mesh.namespace],
            "istio_affinity_services": services,
        }
        for name in pods
    }
    ran = Estate(ansible, tmp_path).verify(hosts).expect(2)
    said = {name: " ".join(outcome(ran, name)["problems"]) for name in hosts}
    assert "already exists, without the labels of a probe pod" in said["theirs"]
    assert "is in use by another run, or was left by one that was killed" in said["other-run"]
    assert seconds(mesh, "/already") == []
    kubectl("-n", PROBES, "get", "pods", *pods)
    kubectl("-n", PROBES, "delete", "pods", *pods, "--wait=false")


SAFE = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
CURL = {"name": "curl", "image": "docker.io/curlimages/curl:8.16.0", "command": ["sleep", "60"], "securityContext": SAFE}
SECRET = {"secretKeyRef": {"name": "any", "key": "any"}}
# What an account with the right to create pods could try, as changes to a spec that is accepted, and a word of the refusal.
WAYS_UP: dict[str, tuple[dict[str, Any], str]] = {
    "privileged": ({"containers": [CURL | {"securityContext": {"privileged": True}}]}, "has privileges"),
    "capability": ({"containers": [CURL | {"securityContext": SAFE | {"capabilities": {"add": ["SYS_ADMIN"]}}}]}, "has privileges"),
    "hostPath": ({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}, "has a volume other than"),
    "Secret": ({"volumes": [{"name": "stolen", "secret": {"secretName": "any"}}]}, "has a volume other than"),
    "token": ({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "has a volume other than"),
    "variable": ({"containers": [CURL | {"env": [{"name": "STOLEN", "valueFrom": SECRET}]}]}, "a variable is read"),
    "account": ({"automountServiceAccountToken": True}, "uses a service account"),
    "hostNetwork": ({"hostNetwork": True}, "namespace of its node"),
    "hostPID": ({"hostPID": True}, "namespace of its node"),
    "node": ({"nodeName": "node-1"}, "namespace of its node"),
    "image": ({"containers": [CURL | {"image": "docker.io/library/busybox"}]}, "the pod has containers other than curl"),
    "container": ({"containers": [CURL, CURL | {"name": "other"}]}, "the pod has containers other than curl"),
    "init container": ({"initContainers": [CURL | {"name": "other"}]}, "the pod has containers other than curl"),
}


def test_the_ways_up_are_closed(account: Path, kubectl: Kubectl) -> None:
    """The shipped account may create the probe pod and no other, may exec into no other, and reads no Secret."""
    kubectl("-n", NAMESPACE, "get", "serviceaccount", ACCOUNT)

    def create(name: str = POD, namespace: str = PROBES, **more: Any) -> Ran:
        spec = {"containers": [CURL], "automountServiceAccountToken": False} | more
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        words = ("--kubeconfig", str(account), "-n", namespace, "create", "--dry-run=server", "-f", "-")
        return kubectl(*words, stdin=json.dumps(pod), codes=(0, 1))

    # A policy takes a moment to be in force.
    for _second in range(30):
        if create(hostNetwork=True).rc:
            break
        time.sleep(1)
    assert create().rc == 0
    for way, (spec, word) in WAYS_UP.items():
        refused = create(**spec)
        assert refused.rc == 1, way
        assert word in refused.stderr, (way, refused.stderr)
    assert "is not that of the probe pod" in create(name="other").stderr
    for namespace in (NAMESPACE, "default", "kube-system"):
        assert "forbidden" in create(namespace=namespace).stderr
    can = ("--kubeconfig", str(account), "auth", "can-i")
    for words in (
        ("get", "secrets", "-n", NAMESPACE),
        ("get", "secrets", "-n", "kube-system"),
        ("create", "pods", "--subresource=exec", "-n", PROBES),
        ("create", "pods", "--subresource=exec", "-n", "kube-system"),
        ("get", "pods", "--subresource=log", "-n", PROBES),
        ("patch", "pods", "-n", PROBES),
        ("create", "serviceaccounts", "--subresource=token", "-n", NAMESPACE),
        ("create", "rolebindings", "-n", PROBES),
    ):
        assert kubectl(*can, *words, codes=(1,)).stdout.strip() == "no", words


def _less(kubectl: Kubectl, name: str, rules: list[dict[str, Any]]) -> None:
    """An account that may do these things on the cluster, and exec into the test pod if it may exec at all."""
    place = {"name": f"verify-{name}", "namespace": NAMESPACE}
    subject = {"kind": "ServiceAccount", **place}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": place["name"]}
    items = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": place["name"]}, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": place["name"]},
            "roleRef": role,
            "subjects": [subject],
        },
    ]
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


EXEC = {"apiGroups": [""], "resources": ["pods/exec"], "resourceNames": ["test-pod"], "verbs": ["get", "create"]}
# What is taken away, and what must be said then.
MISSING = {
    "no-services": ("services", "get services in namespace"),
    "no-pods": ("pods", "list pods in namespace"),
    "no-endpointslices": ("endpointslices", "list endpointslices.discovery.k8s.io in namespace"),
    "no-exec": ("pods/exec", "grant get and create on pods/exec"),
}


@pytest.mark.usefixtures("account")
def test_with_less_it_says_what_is_missing(mesh: Mesh, kubectl: Kubectl, lab: Path, ansible: Ansible, tmp_path: Path) -> None:
    """Each right that is shipped is needed: without it a check says which; and a run by an account without any right says it too."""
    shipped = yaml.safe_load((FILES / "rbac/2-clusterrole.yaml").read_text())["rules"]
    accounts = dict(MISSING, nothing=("", ""))
    try:
        for name, (gone, _said) in accounts.items():
            rules = [] if name == "nothing" else [{**rule, "resources": [kind for kind in rule["resources"] if kind != gone]} for rule in [*shipped, EXEC]]
            _less(kubectl, name, [rule for rule in rules if rule["resources"]])
        for name, (_gone, said) in MISSING.items():
            kubeconfig = token_kubeconfig(kubectl, lab, tmp_path, NAMESPACE, f"verify-{name}")
            result = mesh.look(kubeconfig=str(kubeconfig), profile="quick", path="/less")
            assert result["verdict"] == "error", result["msg"]
            assert said in result["msg"]
        kubeconfig = token_kubeconfig(kubectl, lab, tmp_path, NAMESPACE, "verify-nothing")
        nothing = {"istio_cluster_kubeconfig": str(kubeconfig), "istio_affinity_services": [entry(mesh, "nginx-service", path="/less")]}
        ran = Estate(ansible, tmp_path).verify({"nothing": nothing}).expect(2)
        assert seconds(mesh, "/less") == []
    finally:
        names = [f"verify-{name}" for name in accounts]
        kubectl("delete", "clusterroles,clusterrolebindings", *names, "--ignore-not-found")
        kubectl("-n", NAMESPACE, "delete", "serviceaccounts", *names, "--ignore-not-found")
    problems = " ".join(outcome(ran, "nothing")["problems"])
    assert 'cannot list resource "services"' in problems
    (why,) = [service["why"] for service in outcome(ran, "nothing")["services"]]
    assert f"No permission to get services in namespace {mesh.namespace}" in why


def test_the_latest_outcome_in_a_configmap(mesh: Mesh, account: Path, ansible: Ansible, kubectl: Kubectl, tmp_path: Path) -> None:
    """Written by the shipped account where it was asked for; somebody else's of that name is left alone."""
    kubectl("-n", NAMESPACE, "create", "configmap", "theirs", "--from-literal=a=b")
    single = entry(mesh, "nginx-service")
    hosts = {
        name: {
            "istio_affinity_namespaces": [mesh.namespace],
            "istio_affinity_services": [single | {"probe": False}],
            "istio_affinity_sink_configmap": {"namespace": NAMESPACE, "name": name},
        }
        for name in (ACCOUNT, "theirs")
    }
    hosts[ACCOUNT]["istio_cluster_kubeconfig"] = str(account)
    hosts[ACCOUNT]["istio_affinity_client"] = {"namespace": PROBES, "pod": POD}
    ran = Estate(ansible, tmp_path).verify(hosts).expect(2)
    kept = json.loads(kubectl("-n", NAMESPACE, "get", "configmap", ACCOUNT, "-o", "json").stdout)["data"]
    assert json.loads(kept["outcome.json"])["status"] == outcome(ran, ACCOUNT)["status"]
    assert "istio_affinity_verdict" in kept["affinity.prom"]
    assert "theirs already exists, without the labels of this role" in " ".join(outcome(ran, "theirs")["problems"])
    assert json.loads(kubectl("-n", NAMESPACE, "get", "configmap", "theirs", "-o", "json").stdout)["data"] == {"a": "b"}
