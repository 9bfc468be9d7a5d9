# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sample of its own for the tests of the check, and ways to alter it and to know that Envoy has followed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from inprocess import run_check, run_info

from harness import LAB_CACHE, WORKER, clean_environment, run

if TYPE_CHECKING:
    from conftest import Ansible, Kubectl, Played

# Each worker has a sample of its own.
NAMESPACE = f"affinity{WORKER and '-'}{WORKER}"
KEY = {"type": "header", "name": "user-session"}
HEADER = {"httpHeaderName": "user-session"}
# For services beside nginx-service, whose ring is the default one: what the rule hashes on and how, and the key to send.
HASHED_SERVICES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "ring-64": (HEADER | {"ringHash": {"minimumRingSize": 64}}, KEY),
    "ring-8192": (HEADER | {"ringHash": {"minimumRingSize": 8192}}, KEY),
    "maglev": (HEADER | {"maglev": {"tableSize": 65537}}, KEY),
    "by-cookie": ({"httpCookie": {"name": "user", "ttl": "60s"}}, {"type": "cookie", "name": "user"}),
    "by-query": ({"httpQueryParameterName": "user"}, {"type": "query", "name": "user"}),
    "by-source": ({"useSourceIp": True}, {"type": "source_ip"}),
}
CHECK = "meshops.istio.istio_affinity_check"
INFO = "meshops.istio.istio_affinity_info"
# What the sample consists of, and in which order it can be made anew.
PARTS = ("configmap/nginx-deployment", "deployment/nginx-deployment", "service/nginx-service")
RULES = ("destinationrule/nginx-destinationrule", "virtualservice/nginx-virtualservice")
CLIENT = "pod/test-pod"
VOLATILE = ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields")
# What else the sample's nginx serves, by path, and a second port for what a test does to its listener alone.
PAGES = """
        listen 8081;
        location = /fail { add_header X-Pod-Name $hostname always; return 500; }
        location = /drop { return 444; }
        location = /forge { add_header X-Pod-Name $hostname always; return 200 "R|1\x1f200\x1f0\x1f0.1\x1fenvoy\x1f1\x1fother\x1f.\n0 end 0\n"; }
        location = /issue { add_header X-Pod-Name $hostname always; add_header Set-Cookie "user=$request_id" always; return 200 "$hostname\n"; }
"""
# Pods come and go in moments: connections drain for a second and not for 45, and readiness is probed each second.
QUICK = {
    "metadata": {"annotations": {"proxy.istio.io/config": json.dumps({"drainDuration": "1s", "terminationDrainDuration": "1s"})}},
    "spec": {
        "terminationGracePeriodSeconds": 5,
        "containers": [{"name": "nginx", "readinessProbe": {"periodSeconds": 1, "failureThreshold": 10}}],
    },
}


@dataclass
class Mesh:
    """The sample in a namespace that tests have to themselves."""

    namespace: str
    ansible: Ansible
    kubectl: Kubectl
    kubeconfig: Path
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)

    def make(self) -> None:
        """Namespace and sample by the roles, as users make them, then with what makes tests quick; remembered, to be put right later."""
        tasks = [{"ansible.builtin.include_role": {"name": f"meshops.istio.{role}"}} for role in ("istio_namespace", "istio_sample")]
        names = {"istio_namespace_name": self.namespace, "istio_sample_namespace": self.namespace}
        self.ansible(tasks, extra_vars=names | {"istio_sample_replicas": 1}).expect()
        ((name, text),) = self._there()["configmap/nginx-deployment"]["data"].items()
        self.patch("configmap", "nginx-deployment", {"data": {name: text.replace("listen 8080;", f"listen 8080;{PAGES}", 1)}})
        self.patch("deployment", "nginx-deployment", {"spec": {"replicas": 3, "template": QUICK}}, kind_of_patch="strategic")
        self.objects = {name: _as_asked_for(found) for name, found in self._there().items()}
        assert self.objects.keys() == {*PARTS, *RULES, CLIENT}
        self.converge()

    def converge(self) -> None:
        """As it was made, whatever a test did to it."""
        there = self._there()
        for name, wanted in self.objects.items():
            part = "spec" if "spec" in wanted else "data"
            if name not in there:
                self.kubectl("create", "-f", "-", stdin=json.dumps(wanted))
            elif name != CLIENT and _without_restart(there[name])[part] != wanted[part]:
                # A patch, as the object's controller may write to it meanwhile, which a replacement takes for a conflict.
                patch = [{"op": "replace", "path": f"/{part}", "value": wanted[part]}]
                self.kubectl("-n", self.namespace, "patch", *name.split("/"), "--type=json", "-p", json.dumps(patch))
        self.wait_until("three pods, and no more, and the test pod, all ready", self._is_ready)
        self.wait_for("proxy.in_sync")

    def _there(self) -> dict[str, dict[str, Any]]:
        """Those of the sample's objects that exist, by kind and name."""
        shown = self.kubectl("-n", self.namespace, "get", *PARTS, *RULES, CLIENT, "--ignore-not-found", "-o", "json").stdout
        found = json.loads(shown)["items"] if shown else []
        return {f"{entry['kind'].lower()}/{entry['metadata']['name']}": entry for entry in found}

    def _is_ready(self) -> bool:
        there = self._there()
        wanted = self.objects["deployment/nginx-deployment"]["spec"]["replicas"]
        if CLIENT not in there or not _conditions(there[CLIENT]).get("Ready"):
            return False
        deployment = there["deployment/nginx-deployment"]
        counts = [deployment["status"].get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        followed = deployment["status"].get("observedGeneration") == deployment["metadata"]["generation"]
        return followed and counts == [wanted] * 3 and len(self.pods()) == wanted

    def check(self, *, check: bool = False, **options: Any) -> tuple[Played, dict[str, Any]]:
        """One istio_affinity_check on the sample's service, as a task of a play: the run, and the module's result."""
        played = self.ansible([{"name": "Check", CHECK: self._options(options)}], check=check)
        return played, played.of(CHECK).result

    def look(self, **options: Any) -> dict[str, Any]:
        """The same without Ansible around it: the result alone, in a third of the time."""
        kubeconfig = options.pop("kubeconfig", self.kubeconfig)
        result = run_check(kubeconfig, **self._options({"explain": "always"} | options))
        if result["verdict"] == "passed":
            # Whatever else a test is about: what is healthy has no finding that would alarm anybody.
            assert not [finding for finding in result["findings"] if finding["severity"] != "info"], result["findings"]
        return result

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        arguments = {"namespace": self.namespace, "service": "nginx-service", "key": KEY} | options
        return {name: value for name, value in arguments.items() if value is not None}

    def wait_for(self, condition: str, service: str = "nginx-service", key: dict[str, Any] | None = None, **client: Any) -> None:
        """Until the Envoy of every client (by default the test pod) shows what a Jinja expression says of `proxy`, its entry in istio_affinity_info."""
        holds = jinja2.Environment(autoescape=True).compile_expression(condition)
        options: dict[str, Any] = {"namespace": self.namespace, "service": service, "key": key or KEY} | ({"client": client} if client else {})

        def shown() -> bool:
            services = run_info(self.kubeconfig, **options)
            return bool(services and services[0]["proxies"]) and all(holds(proxy=proxy) for proxy in services[0]["proxies"])

        self.wait_until(f"{service}: {condition}", shown)

    def cure(self, fix: dict[str, str]) -> None:
        """What an operator does with the printed fix."""
        if fix["kind"] == "yaml":
            self.kubectl("apply", "-f", "-", stdin=fix["body"])
        else:
            path = os.pathsep.join((str(LAB_CACHE / "lab/bin"), os.environ["PATH"]))
            run("bash", "-euo", "pipefail", "-c", fix["body"], env=clean_environment() | {"PATH": path, "KUBECONFIG": str(self.kubeconfig)}).expect()

    def delete(self, kind: str, name: str) -> None:
        self.kubectl("-n", self.namespace, "delete", kind, name, "--wait=true")

    def patch(self, kind: str, name: str, patch: dict[str, Any], kind_of_patch: str = "merge") -> None:
        self.kubectl("-n", self.namespace, "patch", kind, name, f"--type={kind_of_patch}", "-p", json.dumps(patch))

    def apply(self, *objects: dict[str, Any]) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("-n", self.namespace, "apply", "-f", "-", stdin=json.dumps(document))

    def scale(self, pods: int) -> None:
        self.kubectl("-n", self.namespace, "scale", "deployment/nginx-deployment", f"--replicas={pods}")
        self.kubectl("-n", self.namespace, "rollout", "status", "deployment/nginx-deployment", "--timeout=120s")
        self.wait_until(f"{pods} pods", lambda: len(self.pods()) == pods)
        self.wait_for("proxy.in_sync")

    def pods(self, selector: str = "app=nginx") -> list[dict[str, Any]]:
        return list(json.loads(self.kubectl("-n", self.namespace, "get", "pods", "-l", selector, "-o", "json").stdout)["items"])

    def node_of_client(self) -> str:
        """The node that the test pod is on."""
        return self.kubectl("-n", self.namespace, "get", CLIENT, "-o", "jsonpath={.spec.nodeName}").stdout

    def envoy(self, page: str, pod: str = "test-pod") -> str:
        """A page of the admin port of a pod's Envoy."""
        return self.kubectl("-n", self.namespace, "exec", pod, "-c", "istio-proxy", "--", "pilot-agent", "request", "GET", page).stdout

    def hosts(self, field: str, service: str = "nginx-service", pod: str = "test-pod") -> dict[str, str]:
        """What a pod's Envoy shows in a field of each host that it has for a service, by the host's address."""
        lines = [line.split("::") for line in self.envoy("clusters", pod).splitlines() if f"|{service}.{self.namespace}.svc" in line]
        return {line[1]: line[-1] for line in lines if line[-2] == field}

    def requests_seen(self, service: str = "nginx-service") -> int:
        """How many requests the test pod's Envoy has sent to a service, by its own counters."""
        return sum(int(count) for count in self.hosts("rq_total", service).values())

    def wait_until(self, what: str, condition: Callable[[], bool], timeout: float = 90) -> None:
        """Poll for a state of the cluster that kubectl wait can't name."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
            time.sleep(0.3)


def _conditions(found: dict[str, Any]) -> dict[str, bool]:
    return {condition["type"]: condition["status"] == "True" for condition in found.get("status", {}).get("conditions", [])}


def _without_restart(found: dict[str, Any]) -> dict[str, Any]:
    """The object without the mark of kubectl rollout restart, for which no pod has to be made once more."""
    if found["kind"] == "Deployment":
        found["spec"]["template"]["metadata"].get("annotations", {}).pop("kubectl.kubernetes.io/restartedAt", None)
    return found


def _as_asked_for(found: dict[str, Any]) -> dict[str, Any]:
    """The object without what the cluster added to it."""
    kept = {name: part for name, part in found.items() if name != "status"}
    kept["metadata"] = {name: part for name, part in found["metadata"].items() if name not in VOLATILE}
    if found["kind"] == "Pod":
        _without_sidecar(kept)
    return kept


def _without_sidecar(pod: dict[str, Any]) -> None:
    """The pod as it was asked for: what admission added is added again when it is made anew."""
    spec = pod["spec"]
    (container,) = (entry for entry in spec["containers"] if entry["name"] == "curl")
    container.pop("volumeMounts", None)
    pod["spec"] = {key: spec[key] for key in ("terminationGracePeriodSeconds", "automountServiceAccountToken", "securityContext") if key in spec}
    pod["spec"]["containers"] = [container]
    labels = pod["metadata"]["labels"]
    pod["metadata"]["labels"] = {key: value for key, value in labels.items() if key in ("app", "meshops.istio/probe") or key.startswith("app.kubernetes.io/")}
    pod["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "curl"}


def audit_lines(lab: Path) -> list[str]:
    """The API server's audit log of the lab, of every node."""
    return [line for log in (lab.parent / "nodes").glob("*/root/var/log/kubernetes/audit*.log") for line in log.read_text().splitlines()]


def parts_of(
    name: str,
    rule: dict[str, Any] | None = None,
    routes: list[dict[str, Any]] | None = None,
    *,
    labels: dict[str, str] | None = None,
    port: dict[str, Any] | None = None,
    **spec: Any,
) -> list[dict[str, Any]]:
    """A Service over the sample's pods, and its DestinationRule and VirtualService if there are any; `port` and `spec` are the Service's."""
    istio, meta = "networking.istio.io/v1", {"name": name, "labels": labels or {}}
    ports = [{"name": "http", "port": 80, "targetPort": 8080} | (port or {})]
    objects: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": "nginx"}, "ports": ports} | spec},
    ]
    if rule is not None:
        objects.append({"apiVersion": istio, "kind": "DestinationRule", "metadata": meta, "spec": {"host": name, **rule}})
    if routes is not None:
        objects.append({"apiVersion": istio, "kind": "VirtualService", "metadata": meta, "spec": {"hosts": [name], "http": routes}})
    return objects


def hashing(**consistent: Any) -> dict[str, Any]:
    """The spec of a DestinationRule that hashes, on the header of the sample if nothing else is said."""
    return {"trafficPolicy": {"loadBalancer": {"consistentHash": consistent or HEADER}}}


def curl_pod(name: str, image: str = "docker.io/curlimages/curl:8.16.0") -> dict[str, Any]:
    """A client of the plainest kind."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "curl", "image": image, "command": ["sleep", "infinity"]}],
        },
    }


def probe_pod(name: str, node: str | None = None) -> dict[str, Any]:
    """A client with the label by which the modules find theirs; on a node, if it is said."""
    pod = curl_pod(name)
    pod["metadata"]["labels"] = {"meshops.istio/probe": "true"}
    if node:
        pod["spec"]["nodeName"] = node
    return pod
