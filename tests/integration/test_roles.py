# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and playbooks on the live lab: idempotent, honest in check mode, and careful with what is not theirs."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from verify_support import EXCLUDED_ANNOTATIONS

from harness import BIN, ROOT, clean_environment, run

if TYPE_CHECKING:
    from integration.conftest import Ansible, Kubectl, Played

    Cases = Callable[..., tuple[Played, dict[str, str]]]

INVENTORY = ROOT / "inventory/lab.yml"

SITE = "meshops.istio.site"
UNINSTALL = "meshops.istio.uninstall"


def _role(name: str, **variables: Any) -> dict[str, Any]:
    return {"name": f"Role {name}", "ansible.builtin.include_role": {"name": f"meshops.istio.{name}"}, "vars": variables}


def _items(played: Played) -> set[str]:
    """What a run changed, or in check mode would change, as it is shown: the labels of loops."""
    shown = re.findall(r"^changed: \[\w+\] => \(item=([^)]*)\)", played.stdout, re.MULTILINE)
    return {item for label in shown for item in label.split(", ")}


def _tasks(played: Played) -> set[str]:
    """The names of the tasks that changed something, those of check mode as what they stand for."""
    return {name.rpartition(": ")[2].removesuffix(" (check mode)").removesuffix(", or correct its labels") for name in played.changed}


def _get(kubectl: Kubectl, *words: str) -> Any:
    return json.loads(kubectl("get", *words, "--output=json").stdout)


def _said(played: Played) -> str:
    """Everything that was printed, as one line: the callback folds long messages."""
    return re.sub(r"\s+", " ", played.stdout)


# -- a converged cluster --


def test_site_shows_pods_sessions_and_verdict(sample: Played):
    pods = sample.named("Pods").result["msg"]
    assert pods[0] == "istio-system:"
    assert any(re.fullmatch(r"  istiod-\S+ +1/1  Running", line) for line in pods)
    assert sum(bool(re.fullmatch(r"  nginx-deployment-\S+ +2/2  Running", line)) for line in pods) == 3
    assert any(re.fullmatch(r"  test-pod +2/2  Running", line) for line in pods)
    sessions = sample.named("Sessions").result["msg"]
    assert [line.split()[0] for line in sessions if line.startswith("sid-")] == [f"sid-{number}" for number in range(1, 21)]
    assert all(re.fullmatch(r"sid-\d+ +nginx-deployment-\S+ +x \d+", line) for line in sessions if line.startswith("sid-"))
    assert sample.named("Verdict").result["msg"].startswith("passed: ")
    assert max(len(line) for line in [*pods, *sessions]) <= 80
    # Cluster and API server are named before anything else happens.
    assert next(task.name for task in sample.tasks if task.status == "ok") == "Show cluster, context and API server"
    assert "context istio-lab" in sample.named("Show cluster, context and API server").result["msg"]
    assert "https://127.0.0.1:26443" in sample.named("Show cluster, context and API server").result["msg"]


@pytest.mark.usefixtures("sample")
def test_bare_clone_and_no_other_cluster(tmp_path: Path, other_cluster: tuple[Path, list[bytes]]):
    """The clone's own site.yml, with its own inventory and roles, has nothing to do on the lab and asks nobody else."""
    kubeconfig, asked = other_cluster
    clone = tmp_path / "clone"
    run("git", "-c", "safe.directory=*", "clone", "--quiet", "--no-hardlinks", ROOT, clone).expect()
    elsewhere = {"KUBECONFIG": str(kubeconfig), "K8S_AUTH_KUBECONFIG": str(kubeconfig), "K8S_AUTH_CONTEXT": "other"}
    seen = run(BIN / "ansible-playbook", "--check", "site.yml", cwd=clone, env=clean_environment(**elsewhere)).expect().stdout
    assert re.search(r"^lab +: .* changed=0 .* failed=0", seen, re.MULTILINE), seen
    assert "TASK [meshops.istio.istio_sample : " in seen
    assert asked == []


@pytest.fixture
def other_cluster(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """The kubeconfig of an API server that is not the lab's, and what it was asked."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(1000))

    thread = threading.Thread(target=listen)
    thread.start()
    kubeconfig = tmp_path / "other"
    cluster = {"server": f"http://127.0.0.1:{listener.getsockname()[1]}"}
    entries = {"clusters": [{"name": "other", "cluster": cluster}], "contexts": [{"name": "other", "context": {"cluster": "other"}}]}
    kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "other", **entries}))
    yield kubeconfig, asked
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


# -- altered by hand --

# What is done to an object by kubectl; the object is named as it is shown when it's put right.
ALTERED = {
    "ConfigMap sample/nginx-deployment": """patch --namespace=sample configmap nginx-deployment --type=merge --patch='{"data": {"added.conf": "x"}}'""",
    "Deployment sample/nginx-deployment": "scale --namespace=sample deployment/nginx-deployment --replicas=2",
    "Service sample/nginx-service": """patch --namespace=sample service nginx-service --type=merge
        --patch='{"spec": {"selector": {"added": "x"}, "sessionAffinity": "ClientIP"}}'""",
    "DestinationRule sample/nginx-destinationrule": """patch --namespace=sample destinationrule nginx-destinationrule --type=merge
        --patch='{"spec": {"exportTo": ["."], "trafficPolicy": {"loadBalancer": {"consistentHash": null, "simple": "RANDOM"}}}}'""",
    "VirtualService sample/nginx-virtualservice": "delete --namespace=sample virtualservice nginx-virtualservice",
}


@pytest.mark.usefixtures("sample")
def test_altered_objects_of_the_sample_are_put_right(ansible: Ansible, kubectl: Kubectl):
    before = {item: _get(kubectl, *_named(item)) for item in ALTERED}
    rule = "DestinationRule sample/nginx-destinationrule"
    kubectl(*shlex.split(ALTERED[rule]))
    failed = ansible(SITE, arguments=("--tags", "verify")).expect(2)
    assert any(line.endswith("moved") for line in failed.named("Sessions").result["msg"])
    assert failed.named("Report that affinity is not proven").result["msg"].startswith("failed: ")

    for item in set(ALTERED) - {rule}:
        kubectl(*shlex.split(ALTERED[item]))
    kubectl("label", "namespace", "sample", "istio-injection-")
    kubectl("set", "image", "--namespace=sample", "pod/test-pod", "curl=docker.io/library/nginx:1.29")
    predicted = ansible(SITE, check=True, arguments=("--skip-tags", "verify")).expect()
    assert _items(predicted) == set(ALTERED) | {"test-pod"}
    done = ansible(SITE).expect()
    assert _items(done) == set(ALTERED) | {"test-pod"}
    assert _tasks(predicted) == _tasks(done)
    assert "test-pod is recreated: its image was changed" in _said(done)
    for item, was in before.items():
        now = _get(kubectl, *_named(item))
        for key in set(was) - {"metadata", "status"}:
            assert _without_addresses(now[key]) == _without_addresses(was[key]), item
    assert _injection(kubectl, "sample") == {"istio-injection": "enabled"}
    again = ansible(SITE).expect()
    assert again.changed == ()
    assert again.stats["lab"]["changed"] == 0


@pytest.mark.usefixtures("sample")
def test_drift_of_the_control_plane_is_reported_and_corrected_where_asked(ansible: Ansible, kubectl: Kubectl):
    """A field of the chart, and one that an admission controller might add."""
    kubectl("set", "env", "--namespace=istio-system", "deployment/istiod", "PILOT_ENABLE_ALPN_FILTER=true", "ADDED=by-hand")
    path = "Deployment.spec.template.spec.containers.discovery.env.PILOT_ENABLE_ALPN_FILTER.value"
    reported = ansible([_role("istio_control_plane")]).expect()
    assert reported.changed == ()
    assert f"{path}: 'true', not 'false'" in _said(reported)
    assert "ADDED" not in _said(reported)
    correct = _role("istio_control_plane", istio_control_plane_drift="correct")
    left = ansible([correct | {"vars": correct["vars"] | {"istio_control_plane_drift_ignore": [path]}}]).expect()
    assert left.changed == ()
    predicted, done = ansible([correct], check=True).expect(), ansible([correct]).expect()
    assert _items(predicted) == _items(done) == {"Deployment istio-system/istiod"}
    env = {entry["name"]: entry.get("value") for entry in _istiod(kubectl)["env"]}
    assert (env["PILOT_ENABLE_ALPN_FILTER"], env["ADDED"]) == ("false", "by-hand")
    kubectl("set", "env", "--namespace=istio-system", "deployment/istiod", "ADDED-")
    assert ansible([correct]).expect().changed == ()


def _istiod(kubectl: Kubectl) -> dict[str, Any]:
    container: dict[str, Any] = _get(kubectl, "--namespace=istio-system", "deployment", "istiod")["spec"]["template"]["spec"]["containers"][0]
    return container


# -- whose a release is --

MARK = "meshops.istio/control-plane"
RECORDS = ("secrets", "--namespace=istio-system", "--selector=owner=helm,status=deployed")
OF_ISTIO = "deployments,services,configmaps,secrets,serviceaccounts,horizontalpodautoscalers,roles,rolebindings"
OF_THE_CLUSTER = "customresourcedefinitions,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations"


def _generations(kubectl: Kubectl) -> dict[str, Any]:
    """Every object of the control plane, as far as it changes only when somebody changes it."""
    items = _get(kubectl, OF_ISTIO, "--namespace=istio-system")["items"] + _get(kubectl, OF_THE_CLUSTER)["items"]
    kept = [item for item in items if "leader" not in item["metadata"]["name"] and "election" not in item["metadata"]["name"]]
    return {f"{item['kind']} {item['metadata']['name']}": _lasting(item) for item in kept}


def _lasting(item: dict[str, Any]) -> list[Any]:
    """Without what istiod writes by itself: that it leads, and, a while after it started, into its webhooks."""
    meta = item["metadata"]
    annotations = {name: value for name, value in (meta.get("annotations") or {}).items() if name not in EXCLUDED_ANNOTATIONS}
    generation = None if item["kind"].endswith("WebhookConfiguration") else meta.get("generation")
    return [meta["uid"], meta.get("labels"), annotations, generation, item.get("data")]


@pytest.mark.usefixtures("sample")
def test_a_release_without_the_mark_is_left_alone_until_it_is_adopted(ansible: Ansible, kubectl: Kubectl):
    """As helm leaves it when somebody else runs it: under the usual names, and with other values."""
    kubectl("label", *RECORDS, f"{MARK}-")
    before = _generations(kubectl)
    try:
        other = {"istio_control_plane_istiod_values": {"pilot": {"replicaCount": 2}}}
        role = [_role("istio_control_plane", istio_control_plane_version="1.32.0", **other)]
        gone = [_role("istio_control_plane", istio_control_plane_state="absent", istio_control_plane_delete_crds=True)]
        for tasks in (role, gone):
            stopped = ansible(tasks).expect(2)
            message = stopped.named("Stop if another tool installed a release").result["msg"]
            assert "Release istiod in namespace istio-system (istiod-1.31.0, deployed)" in message
            assert "Next: " in message
            assert stopped.changed == ()
        assert _generations(kubectl) == before
        shown = ansible([_role("istio_control_plane", istio_control_plane_adopt=True, **other)], check=True).expect()
        assert "values.pilot: none -> " in _said(shown)
        assert _generations(kubectl) == before
        # Its own values stay, on the next run too: those of the inventory are the same, and the role's default of the chart base is not imposed.
        adopted = ansible([_role("istio_control_plane", istio_control_plane_adopt=True)]).expect()
        assert _tasks(adopted) == {"Mark the releases that this role installed or adopts"}
        assert ansible([_role("istio_control_plane")]).expect().changed == ()
        assert {record["metadata"]["labels"][MARK] for record in _get(kubectl, *RECORDS)["items"]} == {"adopted"}
    finally:
        kubectl("label", "--overwrite", *RECORDS, f"{MARK}=installed")


@pytest.mark.usefixtures("sample")
def test_what_a_killed_helm_left_is_recorded_as_failed_and_helm_continues(ansible: Ansible, kubectl: Kubectl):
    """As after kill -9 during an upgrade: the record of the new revision stays pending. No record is deleted."""
    [record] = [item for item in _get(kubectl, *RECORDS)["items"] if item["metadata"]["labels"]["name"] == "istiod"]
    number = int(record["metadata"]["labels"]["version"]) + 1
    content = json.loads(gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"]))))
    content["version"] = number
    content["info"]["status"] = "pending-upgrade"
    labels = record["metadata"]["labels"] | {"version": str(number), "status": "pending-upgrade"}
    meta = {"name": f"sh.helm.release.v1.istiod.v{number}", "namespace": "istio-system", "labels": labels}
    data = {"release": base64.b64encode(base64.b64encode(gzip.compress(json.dumps(content).encode()))).decode()}
    kubectl("create", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "Secret", "type": record["type"], "metadata": meta, "data": data}))
    mended = ansible([_role("istio_control_plane")]).expect()
    assert f"Revision {number} of istiod in namespace istio-system was left 'pending-upgrade'" in _said(mended)
    statuses = {
        int(item["metadata"]["labels"]["version"]): (item["metadata"]["labels"]["status"], item["metadata"]["labels"].get(MARK))
        for item in _get(kubectl, "secrets", "--namespace=istio-system", "--selector=owner=helm,name=istiod")["items"]
    }
    assert statuses[number] == ("failed", "installed")
    assert statuses[number + 1] == ("deployed", "installed")
    assert ansible([_role("istio_control_plane")]).expect().changed == ()


@pytest.mark.full
@pytest.mark.usefixtures("sample")
def test_a_revision_is_a_release_of_its_own(ansible: Ansible, kubectl: Kubectl):
    """Beside the default control plane, which stays as it is; and the chart base stays while one of them runs."""
    before = _generations(kubectl)
    canary = {"istio_control_plane_revision": "canary", "istio_control_plane_delete_crds": True}
    ansible([_role("istio_control_plane", **canary)]).expect()
    assert ansible([_role("istio_control_plane", **canary)]).expect().changed == ()
    after = _generations(kubectl)
    assert {name: after[name] for name in before} == before
    assert "Deployment istiod-canary" in after
    gone = ansible([_role("istio_control_plane", istio_control_plane_state="absent", **canary)]).expect()
    assert "The release istio-base and the custom resource definitions stay: istio-system/istiod needs them." in _said(gone)
    assert _generations(kubectl) == before


@pytest.mark.full
@pytest.mark.usefixtures("sample")
def test_another_namespace(ansible: Ansible, kubectl: Kubectl):
    mesh = {"istio_control_plane_namespace": "test-mesh", "istio_control_plane_delete_crds": True}
    try:
        stopped = ansible([_role("istio_control_plane", **mesh)]).expect(2)
        assert "belongs to the Helm release istio-base in namespace istio-system" in _said(stopped)
        ansible([_role("istio_control_plane", istio_control_plane_state="absent", istio_control_plane_delete_crds=True)]).expect()
        ansible([_role("istio_control_plane", **mesh)]).expect()
        assert ansible([_role("istio_control_plane", **mesh)]).expect().changed == ()
        hooks = _get(kubectl, "validatingwebhookconfiguration", "istio-validator-test-mesh")["webhooks"]
        assert {hook["clientConfig"]["service"]["namespace"] for hook in hooks} == {"test-mesh"}
        ansible([_role("istio_control_plane", istio_control_plane_state="absent", **mesh)]).expect()
        kubectl("get", "namespace", "test-mesh", codes=(1,))
    finally:
        ansible(SITE).expect()


def _named(item: str) -> tuple[str, ...]:
    kind, where = item.split(" ")
    *namespace, name = where.split("/")
    return (kind, name, *(f"--namespace={one}" for one in namespace))


def _without_addresses(value: Any) -> Any:
    """A Service that is made anew gets another one."""
    return {key: held for key, held in value.items() if key not in ("clusterIP", "clusterIPs")} if isinstance(value, dict) else value


def test_says_what_the_sample_waits_for(ansible: Ansible, namespace: Callable[..., str]):
    variables = {"istio_sample_namespace": namespace(), "istio_sample_nginx_image": "docker.io/library/none:1", "istio_sample_wait_timeout": 10}
    stopped = ansible([_role("istio_sample", **variables)]).expect(2)
    message = stopped.named("Report why the sample is not ready").result["msg"]
    assert "nginx-deployment: 3 pods wanted, 3 of the latest configuration, 0 available" in message
    assert re.search(r"nginx-deployment-\S+, container nginx: (ErrImagePull|ImagePullBackOff)", message)


# -- what is not theirs: one host a case, all on the lab --


def _message(result: dict[str, Any]) -> str:
    """Why a task failed; a loop has a message for each item."""
    return " ".join([result["msg"], *(item["msg"] for item in result.get("results", ()) if "msg" in item)])


@pytest.fixture
def cases(ansible: Ansible, tmp_path: Path) -> Cases:
    """Run a playbook or tasks on the lab once for each set of variables; the messages of failed tasks come by the set's name."""
    lab_variables = yaml.safe_load(INVENTORY.read_text())["all"]["hosts"]["lab"]

    def play(what: Any, hosts: dict[str, dict[str, Any]], *codes: int) -> tuple[Played, dict[str, str]]:
        inventory = tmp_path / "inventory.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {name: lab_variables | variables for name, variables in hosts.items()}}}))
        # All of them, though the first one fails.
        together = {"istio_serial": "100%", "istio_max_fail_percentage": 100}
        played = ansible(what, inventory=inventory, extra_vars=together).expect(*codes)
        return played, {task.host: _message(task.result) for task in played.tasks if task.status == "failed"}

    return play


@pytest.mark.usefixtures("sample")
def test_site_stops_before_any_change(cases: Cases, lab: Path, tmp_path: Path):
    (tmp_path / "dead").write_text(re.sub(r"https://127.0.0.1:\d+", "https://127.0.0.1:9", lab.read_text()))
    # A version that is not there yet, so that helm is needed.
    newer = {"istio_control_plane_version": "1.31.1"}
    hosts = {
        "nofile": {"istio_cluster_kubeconfig": str(tmp_path / "none")},
        "nocontext": {"istio_cluster_context": "production"},
        "noanswer": {"istio_cluster_kubeconfig": str(tmp_path / "dead")},
        "older": {"istio_control_plane_version": "1.30.0"},
        "nohelm": newer | {"istio_control_plane_helm_binary": "/nonexistent/helm"},
        "number": {"istio_control_plane_version": 1.31},
        "floating": {"istio_control_plane_version": "1.31"},
        "skip": {"istio_control_plane_version": "1.33.0"},
        "revision": {"istio_control_plane_istiod_values": [{"revision": "canary"}]},
        "driver": {"istio_control_plane_helm_environment": {"HELM_DRIVER": "configmap"}},
    }
    stopped, said = cases(SITE, hosts, 2)
    assert f"no kubeconfig at {tmp_path / 'none'}" in said["nofile"]
    assert "no context 'production'" in said["nocontext"]
    assert "It has: istio-lab." in said["nocontext"]
    assert "API server https://127.0.0.1:9 " in said["noanswer"]
    assert "istiod 1.31.0 is installed and istio_control_plane_version is 1.30.0" in said["older"]
    assert "or Helm 4, is needed at '/nonexistent/helm'" in said["nohelm"]
    assert "is 1.31, a number. It must be the full version" in said["number"]
    assert "It must be the full version" in said["floating"]
    assert "upgrade to 1.32 first" in said["skip"]
    assert "which makes the revision a release of its own" in said["revision"]
    assert "HELM_DRIVER is configmap" in said["driver"]
    assert all(counts["failures"] == 1 and counts["changed"] == 0 for counts in stopped.stats.values())


def test_environment_that_redirects(ansible: Ansible):
    stopped = ansible(UNINSTALL, env={"K8S_AUTH_HOST": "https://127.0.0.1:1"}).expect(2)
    assert "K8S_AUTH_HOST in the environment" in _said(stopped)
    assert stopped.stats["lab"]["changed"] == 0


def test_sample_leaves_other_objects(ansible: Ansible, cases: Cases, kubectl: Kubectl, namespace: Callable[..., str]):
    name, outside = namespace(), namespace(injection=False)
    kubectl("--namespace", name, "create", "service", "clusterip", "nginx-service", "--tcp=80")
    hosts = {
        "there": {"istio_sample_namespace": name},
        "gone": {"istio_sample_namespace": name, "istio_sample_state": "absent"},
        "outside": {"istio_sample_namespace": outside},
    }
    played, said = cases([_role("istio_sample")], hosts, 2)
    assert f"Service {name}/nginx-service: already there" in said["there"]
    assert "is not labelled for sidecars" in said["outside"]
    assert "gone" not in said
    assert f"Service {name}/nginx-service: kept" in _said(played)
    assert played.changed == ()
    assert _get(kubectl, "--namespace", name, "service", "nginx-service")
    # Check mode says what a run does: nobody would create this namespace before.
    predicted = ansible([_role("istio_sample", istio_sample_namespace="test-none")], check=True).expect(2)
    assert "Namespace test-none does not exist" in _said(predicted)


def test_namespaces(cases: Cases, kubectl: Kubectl, namespace: Callable[..., str]):
    """Its own, one that is somebody else's, and one that somebody else labelled."""
    bare, theirs = namespace(injection=False), namespace(injection=False)
    kubectl("delete", "namespace", "test-own", "test-held", "--ignore-not-found")
    kubectl("--namespace", bare, "run", "bare", "--image=docker.io/curlimages/curl:8.16.0", "--", "sleep", "600")
    kubectl("label", "namespace", theirs, "istio.io/rev=theirs")
    hosts = {
        "own": {"istio_namespace_name": "test-own"},
        "held": {"istio_namespace_name": "test-held"},
        "bare": {"istio_namespace_name": bare},
        "theirs": {"istio_namespace_name": theirs},
        "both": {"istio_namespace_name": "test-both", "istio_namespace_revision": "canary"},
    }
    labelled, said = cases([_role("istio_namespace")], hosts, 2)
    assert f"Pods without one in {bare}: bare." in _said(labelled)
    assert f'Namespace {theirs} was labelled {{"istio.io/rev": "theirs"}} by someone else' in said["theirs"]
    assert "contradict each other" in said["both"]
    assert [_injection(kubectl, name) for name in ("test-own", bare, theirs)] == [{"istio-injection": "enabled"}] * 2 + [{"istio.io/rev": "theirs"}]
    # Its own may change over; never to both labels.
    revision = {"istio_namespace_injection": False, "istio_namespace_revision": "canary"}
    cases([_role("istio_namespace")], {"own": hosts["own"] | revision})
    assert _injection(kubectl, "test-own") == {"istio.io/rev": "canary"}
    # Whatever somebody put into it keeps it, of any kind; what comes by itself does not.
    kubectl("apply", "--filename=-", stdin=json.dumps(HELD))
    removed, said = cases([_role("istio_namespace", istio_namespace_state="absent")], {name: hosts[name] for name in ("own", "held", "bare", "theirs")})
    assert not said
    assert {name for name, counts in removed.stats.items() if counts["changed"]} == {"own", "held", "bare"}
    assert "objects are in it that this collection did not make: ServiceEntry held, StatefulSet held." in _said(removed)
    kubectl("get", "namespace", "test-own", codes=(1,))
    assert [_injection(kubectl, name) for name in ("test-held", bare, theirs)] == [{}, {}, {"istio.io/rev": "theirs"}]
    kubectl("--namespace=test-held", "delete", "serviceentry,statefulset", "held")
    cases([_role("istio_namespace", istio_namespace_state="absent")], {"held": hosts["held"]})
    kubectl("get", "namespace", "test-held", codes=(1,))


HELD = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {"name": "held", "namespace": "test-held"},
            "spec": {"hosts": ["held.example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "held", "namespace": "test-held"},
            "spec": {
                "replicas": 1,
                "serviceName": "held",
                "selector": {"matchLabels": {"app": "held"}},
                "template": {
                    "metadata": {"labels": {"app": "held", "sidecar.istio.io/inject": "false"}},
                    "spec": {"containers": [{"name": "held", "image": "docker.io/curlimages/curl:8.16.0", "command": ["sleep", "600"]}]},
                },
            },
        },
    ],
}


def _injection(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    labels = _get(kubectl, "namespace", namespace)["metadata"]["labels"]
    return {name: value for name, value in labels.items() if name in ("istio-injection", "istio.io/rev")}


# -- there and back --


@pytest.mark.usefixtures("sample")
def test_uninstall_says_what_it_would_keep(ansible: Ansible, kubectl: Kubectl):
    """Istio's own leftovers do not count; what somebody put beside it does."""
    kubectl("--namespace=istio-system", "create", "configmap", "somebodys")
    try:
        predicted = ansible(UNINSTALL, check=True).expect()
    finally:
        kubectl("--namespace=istio-system", "delete", "configmap", "somebodys")
    assert "Namespace istio-system stays: it contains ConfigMap somebodys." in _said(predicted)
    assert re.search(r"1\d custom resource definitions of Istio stay", _said(predicted))
    assert kubectl("get", "namespaces", "sample", "istio-system", "--output=name").stdout.split() == ["namespace/sample", "namespace/istio-system"]
