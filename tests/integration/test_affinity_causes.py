# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every cause of the catalogue that the lab can produce: it is found first, by evidence that is so, and its fix, run as printed
or done by hand where it is a sentence, makes the check pass (of each way of printing some, of all with ISTIO_TESTS=full).

The folder of a cause in causes/ has a service of its own, so all are made at once and none is in another's way. Nor are
checks and fixes: all are checked, then all fixes are run, then all are checked again, several at a time, and each test
reads what came of its own.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from affinity_support import KEY, Mesh
from inprocess import run_check, run_info

from ansible_collections.meshops.istio.plugins.module_utils import _check
from ansible_collections.meshops.istio.plugins.module_utils._causes import CATALOGUE

CAUSES = Path(__file__).parent / "causes"
NAMESPACE, OTHER = "causes", "causes-other"
COOKIE = {"type": "cookie", "name": "user"}
LAST = "last"
# How many checks and fixes: part of each is waiting.
AT_ONCE = 3


@dataclass(frozen=True)
class Case:
    """How a folder is checked: `shown` are the evidence's fields that the test looks at, with the start of their values
    (`*` for whatever it is), `options` differ from a plain check, and `cured` from these once a manual fix is done.
    `before` is what happens right before the check; a `late` folder is for it to apply. `follows` is false where the
    client's own Envoy does not show that the fix has arrived. `meanwhile` goes on while the fix is run. `by_hand` are the
    commands of an operator who does what a manual fix says; `instead` is the Service that a fix makes for callers to use."""

    shown: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ("failed",)
    cured: dict[str, Any] | None = None
    service: str | None = None
    before: Callable[[Broken], None] | None = None
    meanwhile: Callable[[Broken], None] | None = None
    late: bool = False
    follows: bool = True
    by_hand: str | None = None
    instead: str | None = None

    def client(self) -> dict[str, Any]:
        return dict(self.options.get("client", {"pod": "test-pod"}))


# -- what happens right before a check --


def a_pod_goes(causes: Broken) -> None:
    """With the first requests."""
    pod = causes.pods("app=c50")[0]["metadata"]["name"]

    def go() -> None:
        causes.wait_until("the first requests", lambda: causes.requests_seen("c50") > 0)
        causes.kubectl("-n", NAMESPACE, "delete", "pod", pod, "--wait=false")

    threading.Thread(target=go).start()


def the_client_starts(causes: Broken) -> None:
    """Its application, that is; its sidecar takes longer."""
    causes.kubectl("apply", "-f", str(CAUSES / "C07"))
    pod = "{.status.containerStatuses[?(@.name=='curl')].ready}"
    causes.kubectl("-n", NAMESPACE, "wait", f"--for=jsonpath={pod}=true", "pod/client-c07", "--timeout=60s")


def its_sidecar_starts(causes: Broken) -> None:
    """While the fix waits for it."""
    causes.kubectl("-n", NAMESPACE, "exec", "client-c07", "-c", "istio-proxy", "--", "sh", "-c", "touch /etc/istio/proxy/go")


def no_more_news(causes: Broken, client: str) -> None:
    """What connects the client's Envoy to istiod stops; Envoy goes on with what it has."""
    causes.kubectl("-n", NAMESPACE, "exec", client, "-c", "istio-proxy", "--", "sh", "-c", "kill -STOP $(pidof pilot-agent)")


def the_rule_comes_too_late(causes: Broken) -> None:
    no_more_news(causes, "client-c17")
    # By two clocks: only a rule that is written some seconds after Envoy's last update proves that the update lacks it.
    time.sleep(7)
    hashing = {"simple": None, "consistentHash": {"httpHeaderName": "user-session"}}
    causes.patch("destinationrule", "c17", {"spec": {"trafficPolicy": {"loadBalancer": hashing}}})


def a_pod_comes_too_late(causes: Broken) -> None:
    no_more_news(causes, "client-c64")
    causes.kubectl("-n", NAMESPACE, "scale", "deployment/c64", "--replicas=3")
    causes.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/c64", "--timeout=120s")
    # So long after a change nobody can say that it is still on its way.
    time.sleep(31)


def one_pod_weighs_more(causes: Broken) -> None:
    """An entry for the address of a pod, which Istio takes for that pod."""
    address = causes.pods("c60=yes")[0]["status"]["podIP"]
    spec = {"address": address, "weight": 5, "labels": {"c60": "yes"}, "ports": {"http": 8080}}
    entry = {"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {"name": "c60", "labels": {"c60": "yes"}}, "spec": spec}
    causes.apply(entry)
    causes.settle({"pod": "test-pod"})


def the_ring_goes_stale(causes: Broken) -> None:
    """A pod is put out of the balancing; meanwhile another goes, and the rings are made anew without both. When the first is
    taken in again, the rings do not hear of it."""
    curl = ["exec", "client-c58", "-c", "curl", "--", "curl", "-s", "-o", "/dev/null", "-H", "user-session: one"]
    for _time in range(3):
        causes.kubectl("-n", NAMESPACE, *curl, "http://c58/broken")

    def health() -> dict[str, str]:
        return causes.hosts("health_flags", "c58", "client-c58")

    (out,) = [address for address, flags in health().items() if flags != "healthy"]
    other = next(pod for pod in causes.pods("c58=yes") if f"{pod['status']['podIP']}:8080" != out)
    causes.kubectl("-n", NAMESPACE, "label", "pod", other["metadata"]["name"], "c58-")
    causes.wait_until("the other is gone", lambda: len(health()) == 3)
    assert health()[out] != "healthy"
    causes.wait_until("all others are in", lambda: set(health().values()) == {"healthy"})


KUBECTL = f"kubectl -n {NAMESPACE}"


def made_again(pod: str, change: str = "cat") -> str:
    """A pod that no controller makes, after a change of its definition."""
    return f"{KUBECTL} get pod {pod} -o yaml | {change} | kubectl replace --force -f -\n{KUBECTL} wait --for=condition=Ready pod/{pod} --timeout=120s"


def changed(kind: str, name: str, change: Any) -> str:
    """A patch, of lists by operations."""
    return f"{KUBECTL} patch {kind} {name} --type={'json' if isinstance(change, list) else 'merge'} -p '{json.dumps(change)}'"


NOT_1337 = """kubectl patch --local -f - -o yaml -p '{"spec": {"containers": [{"name": "curl", "securityContext": {"runAsUser": 1000}}]}}'"""
ONE_PROXY = {"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": json.dumps({"gatewayTopology": {"numTrustedProxies": 1}})}}}}}
NO_EJECTION = {"spec": {"trafficPolicy": {"outlierDetection": None}}}
BY_HEADER = {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"useSourceIp": None, "httpHeaderName": "user-session"}}}}}
WITH_TTL = {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpCookie": {"ttl": "0s"}}}}}}
HALVES = "hash policy of the route"
IN_FORCE = "DestinationRule of the cluster"
GATEWAY = {"namespace": NAMESPACE, "service": "c44-gateway", "host": "c44.example.com"}
CASES: dict[str, Case] = {
    "C01": Case(
        {"metadata.labels['sidecar.istio.io/inject']": "false"},
        {"client": {"pod": "client-c01"}},
        by_hand=made_again("client-c01", "kubectl label --local -f - -o yaml sidecar.istio.io/inject-"),
    ),
    "C02": Case(
        {"spec.containers[curl].securityContext.runAsUser": "1337", "requests counted, of those answered": "0 of 87"},
        {"client": {"pod": "client-c02"}},
        by_hand=made_again("client-c02", NOT_1337),
    ),
    "C03": Case(
        {"metadata.annotations['traffic.sidecar.istio.io/excludeOutboundPorts']": "80"},
        {"client": {"pod": "client-c03"}},
        by_hand=made_again("client-c03", "kubectl annotate --local -f - -o yaml traffic.sidecar.istio.io/excludeOutboundPorts-"),
    ),
    "C04": Case({"host": "c04.example.com"}, {"via": {"address": "the cluster IP", "host": "c04.example.com"}}),
    "C05": Case({"spec.egress[].hosts": "istio-system/*"}, {"client": {"pod": "client-c05"}}, ("failed", "inconclusive")),
    "C07": Case(
        {"status.containerStatuses[istio-proxy].ready": "false", "route and cluster of the service": "no response"},
        {"client": {"pod": "client-c07"}},
        ("failed", "inconclusive"),
        before=the_client_starts,
        meanwhile=its_sidecar_starts,
        late=True,
    ),
    "C10": Case({"spec.host": "c10-chekout", IN_FORCE: "absent"}, service="c10-checkout"),
    "C11": Case({"metadata.namespace": OTHER, "namespaces that Istio searches": f"{NAMESPACE}, istio-system"}),
    "C12": Case({IN_FORCE: f"{OTHER}/c12"}, {"client": {"pod": "client-c12", "namespace": OTHER}}),
    "C13": Case({IN_FORCE: f"{NAMESPACE}/c13-a"}),
    "C14": Case({"spec.workloadSelector.matchLabels": "app=somebody-else", "metadata.labels": "app=test-pod"}),
    "C16": Case(
        {"spec.configPatches[0]": "CLUSTER: {'lb_policy': 'RANDOM'}", "lb_policy of the cluster": "RANDOM"}, by_hand=f"{KUBECTL} delete envoyfilter c16"
    ),
    "C17": Case(
        {IN_FORCE: f"{NAMESPACE}/c17", "lb_policy of the cluster": "RANDOM"},
        {"client": {"pod": "client-c17"}},
        before=the_rule_comes_too_late,
        by_hand=made_again("client-c17"),
    ),
    "C18": Case({"spec.trafficPolicy.loadBalancer": "simple: ROUND_ROBIN", IN_FORCE: f"{NAMESPACE}/c18"}),
    "C20": Case({"spec.http[].route[].destination.port": "absent", HALVES: "none"}),
    "C21": Case({"spec.trafficPolicy.portLevelSettings of port 80": "connectionPool", HALVES: "header user-session"}),
    "C22": Case({"trafficPolicy.loadBalancer of subset all": "simple: RANDOM", HALVES: "header user-session"}),
    "C24": Case({"cluster of the route": "outbound|80||c24-next."}),
    "C25": Case({"spec.gateways": "edge", "VirtualService of the route": "absent"}),
    "C26": Case({"VirtualService of the route": f"{NAMESPACE}/c26-a"}, by_hand=f"{KUBECTL} delete virtualservice c26-a"),
    "C30": Case({"spec.ports[].name, appProtocol": "tcp-web, absent", "HTTP route": "absent"}),
    "C31": Case({"spec.ports[].name, appProtocol": "https-web, absent", "HTTP route": "absent"}),
    "C32": Case({"spec.clusterIP": "None", "type of cluster": "ORIGINAL_DST"}, verdicts=("failed", "inconclusive"), instead="c32-sticky"),
    "C34": Case({"spec.resolution": "NONE", "cluster of the route": "outbound|80||legacy.c34.example.com"}, verdicts=("failed", "inconclusive")),
    "C35": Case({"spec.trafficPolicy.loadBalancer.simple": "PASSTHROUGH", "type of cluster": "ORIGINAL_DST"}),
    # Three requests would meet one of three pods by chance each ninth time.
    "C40": Case({"cookie user": "empty"}, {"key": COOKIE, "session_ids": ["", "one", "two"], "requests": 10}, cured={"session_ids": ["zero", "one", "two"]}),
    "C41": Case({"spec.trafficPolicy.loadBalancer.consistentHash": "user_session", "header": "user-session"}),
    "C42": Case({"spec.http[].headers.request": "removed"}, by_hand=changed("virtualservice", "c42", [{"op": "remove", "path": "/spec/http/0/headers"}])),
    "C42-set": Case(
        {"spec.http[].headers.request": "set to fixed"},
        verdicts=("not_proven",),
        by_hand=changed("virtualservice", "c42-set", [{"op": "remove", "path": "/spec/http/0/route/0/headers"}]),
    ),
    "C43": Case({"ttl of the hash policy": "absent"}, {"key": COOKIE | {"cookie": "learned"}}, by_hand=changed("destinationrule", "c43", WITH_TTL)),
    "C44": Case(
        {"sources (X-Forwarded-For)": "36", "pods": "nginx-", "metadata.annotations['proxy.istio.io/config']": "absent"},
        {"client": {"pod": "client-c44"}, "via": GATEWAY, "key": {"type": "source_ip"}},
        ("not_proven",),
        follows=False,
        by_hand=changed("deployment", "c44-gateway", ONE_PROXY) + f"\n{KUBECTL} rollout status deployment/c44-gateway --timeout=180s",
    ),
    "C45": Case({HALVES: "header x-request-id"}),
    "C50": Case({"endpoints": "pod c50-"}, {"rate": 30, "sessions": 20, "requests": 3}, ("inconclusive",), before=a_pod_goes),
    "C51": Case(
        {"health_flags of": "/failed_outlier_check", "status 5xx": "*"},
        verdicts=("failed", "inconclusive"),
        by_hand=changed("destinationrule", "c51", NO_EJECTION),
    ),
    "C52": Case(
        {"healthy hosts": "3 of 5", "healthy_panic_threshold of the cluster": "70 %", "spec.trafficPolicy.outlierDetection.minHealthPercent": "70"},
        verdicts=("failed", "inconclusive"),
        by_hand=changed("destinationrule", "c52", NO_EJECTION),
    ),
    "C53": Case({"priorities": "0, 1", "zones of the hosts": "zone-1, zone-2"}, {"client": {"pod": "client-c53"}}, ("inconclusive", "not_proven")),
    "C53-distribution": Case({"spec.trafficDistribution": "PreferSameZone"}, {"client": {"pod": "client-c53"}}, ("inconclusive", "not_proven")),
    "C54": Case(
        {"balancer": "*", "eligible hosts": "*"}, {"client": {"selector": "c54=yes", "max": 2}}, by_hand=f"{KUBECTL} delete destinationrule c54-special"
    ),
    "C55": Case(
        {"hosts that are not pods of the service": "10.89.0.155:15443", "metadata.labels['topology.istio.io/network'] of its pods": "west"},
        {"client": {"pod": "client-c55-east"}},
        cured={"client": {"pod": "client-c55-west"}},
        follows=False,
    ),
    "C56": Case(
        {"spec.http[].route[].weight": "70, 30"}, by_hand=changed("virtualservice", "c56", {"spec": {"http": [{"route": [{"destination": {"host": "c56"}}]}]}})
    ),
    "C57": Case(
        {"requests counted, of those sent": "*", "retry_host_predicate of the route": "envoy.retry_host_predicates.previous_hosts"},
        by_hand=changed("virtualservice", "c57", [{"op": "add", "path": "/spec/http/0/retries", "value": {"attempts": 0}}]),
    ),
    "C58": Case(
        {"healthy hosts that the ring lacks": "10.", "landed where the ring without them puts them": "all"},
        {"client": {"pod": "client-c58"}},
        ("not_proven",),
        before=the_ring_goes_stale,
        by_hand=made_again("client-c58"),
    ),
    "C60": Case({"weight of host": "5", "lb_policy of the cluster": "RING_HASH"}, verdicts=("passed", "not_proven"), before=one_pod_weighs_more),
    "C61": Case({"minimumRingSize": "1", "points of the ring for each host": "1"}, verdicts=("passed", "not_proven", "inconclusive")),
    "C64": Case(
        {"ready endpoints that Envoy does not know": "10.", "seconds since the EndpointSlices changed": "*"},
        {"client": {"pod": "client-c64"}},
        ("inconclusive", "not_proven"),
        before=a_pod_comes_too_late,
        by_hand=made_again("client-c64"),
    ),
    "C65": Case({"consistentHash on header user-session": "subset all", "cluster of the route": "outbound|80||c65."}),
    "C66": Case({"spec.sessionAffinity": "ClientIP", IN_FORCE: "absent"}, service="address-sticky"),
    "C68": Case(
        {"cluster of the route": "outbound|80|stable|c68.", "hosts of that cluster": "absent", "labels of subset stable": "app=nobody"},
        verdicts=("error",),
        by_hand=changed("destinationrule", "c68", [{"op": "replace", "path": "/spec/subsets/0/labels", "value": {"app": "nginx"}}]),
    ),
    "C70": Case({"spec.http[].route[].destination.host": "c70-old.", "clusters of the route": "outbound|80||c70.", HALVES: "none"}),
    "F1": Case(
        {"ready endpoints": "f1-"},
        verdicts=("inconclusive",),
        by_hand=f"{KUBECTL} scale deployment/f1 --replicas=2\n{KUBECTL} rollout status deployment/f1 --timeout=180s",
    ),
    "F2": Case({"value": "keepalive"}, {"connection": "keepalive"}, ("not_proven",), cured={"connection": "new"}),
    "F3": Case(
        {"cluster of the route": "outbound|80|one|f3.", "ready endpoints": "2"},
        {"client": {"pod": "client-c53"}},
        ("inconclusive", "not_proven"),
        by_hand=changed("virtualservice", "f3", {"spec": {"http": [{"route": [{"destination": {"host": "f3"}}]}]}}),
    ),
    "F4": Case({"identity": "text/plain"}, {"identify": "header", "identify_header": ["Content-Type"]}, ("inconclusive",), cured={"identify": "upstream"}),
    "F5": Case({HALVES: "source_ip", "requests without the key": "all 15"}, verdicts=("not_proven",), by_hand=changed("destinationrule", "f5", BY_HEADER)),
}
# Those whose fix is a sentence.
MANUAL = {name for name, case in CASES.items() if case.cured is not None or case.by_hand is not None}
# One whose fix is run in every test run, of each way of mending: a patch of rule, port or subset, a rule or route that comes
# or goes, a Sidecar, a Service, a pod made again or waited for, a sentence.
MENDED = {"C01", "C05", "C07", "C11", "C18", "C21", "C24", "C30", "C40"}


@dataclass
class Broken(Mesh):
    """A sample's namespace with all the folders' objects in it."""

    turn: Iterator[int] = field(default_factory=itertools.count)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make_all(self, sample: dict[str, dict[str, Any]]) -> None:
        """The sample as it was made elsewhere, and all folders, so that all pods start together."""
        self.objects = copy.deepcopy(sample)
        for part in self.objects.values():
            part["metadata"]["namespace"] = NAMESPACE
        for address in ("clusterIP", "clusterIPs"):
            self.objects["service/nginx-service"]["spec"].pop(address)
        self.objects["deployment/nginx-deployment"]["spec"]["template"]["metadata"]["labels"] |= dict.fromkeys(("c51", "c52", "c60"), "yes")
        self.objects["pod/test-pod"]["metadata"]["labels"]["c54"] = "yes"
        here = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {"istio-injection": "enabled"}}}
        items = {"apiVersion": "v1", "kind": "List", "items": [here, *self.objects.values()]}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))
        self.kubectl("apply", "-f", str(CAUSES / "base"))
        folders = [word for name, case in CASES.items() if not case.late for word in ("-f", str(CAUSES / name))]
        self.kubectl("apply", *folders)
        for namespace in (NAMESPACE, OTHER):
            self.kubectl("-n", namespace, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=240s", timeout=300)
        self.settle({"pod": "test-pod"})

    def settle(self, client: dict[str, Any]) -> None:
        """Until a client has all that was changed before now."""
        with self.lock:
            self.follow(client, self.mark())

    def mark(self) -> dict[str, str]:
        """Change a rule after all others: Istio pushes its whole configuration, routes last, so a client whose route shows it has those too."""
        header = f"x-turn-{os.getpid()}-{next(self.turn)}"
        self.patch("destinationrule", LAST, {"spec": {"trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": header}}}}})
        return {"type": "header", "name": header}

    def follow(self, client: dict[str, Any], mark: dict[str, str]) -> None:
        self.wait_until(f"{client} has {mark['name']}", lambda: self.in_sync(LAST, client, mark))

    def in_sync(self, service: str, client: dict[str, Any], key: dict[str, Any]) -> bool:
        services = run_info(self.kubeconfig, namespace=NAMESPACE, service=service, client=client, key=key)
        return bool(services and services[0]["proxies"]) and all(proxy["in_sync"] for proxy in services[0]["proxies"])

    def measure(self, name: str, **options: Any) -> dict[str, Any]:
        service = CASES[name].service or name.lower()
        arguments = {"key": KEY, "profile": "quick", "explain": "always", "client": {"pod": "test-pod"}, "service": service}
        return run_check(self.kubeconfig, namespace=NAMESPACE, **arguments | options)


@pytest.fixture(scope="module")
def causes(mesh: Mesh) -> Iterator[Broken]:
    for name in (NAMESPACE, OTHER):
        mesh.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=150s")
    found = Broken(NAMESPACE, mesh.ansible, mesh.kubectl, mesh.kubeconfig)
    found.make_all(mesh.objects)
    yield found
    for name in (NAMESPACE, OTHER):
        mesh.kubectl("delete", "namespace", name, "--wait=false")


def options_of(causes: Broken, name: str) -> dict[str, Any]:
    """The options of a case, with what is only known now."""
    options = dict(CASES[name].options)
    if "address" in options.get("via", {}):
        address = causes.kubectl("-n", NAMESPACE, "get", "service", name.lower(), "-o", "jsonpath={.spec.clusterIP}").stdout
        options["via"] = {**options["via"], "address": address}
    return options


def proven(finding: dict[str, Any], shown: dict[str, str]) -> None:
    """The evidence has these fields, with values that begin so."""
    for place, start in shown.items():
        values = [item["value"] for item in finding["evidence"] if item["field"].startswith(place)]
        assert any(start == "*" or value.startswith(start) for value in values), (place, start, finding["evidence"])
    assert all(item["source"] and item["value"] != "" for item in finding["evidence"])


def is_named(result: dict[str, Any], name: str) -> bool:
    return [finding["id"] for finding in result["findings"][:1]] == [name.partition("-")[0]]


def broken(causes: Broken, name: str) -> dict[str, Any]:
    """The check of a folder as it is."""
    before = CASES[name].before
    if before:
        before(causes)
    return causes.measure(name, **options_of(causes, name))


def cure(causes: Broken, name: str, result: dict[str, Any]) -> None:
    """What is printed, where the cause is the right one, or what it says, by hand."""
    meanwhile, by_hand = CASES[name].meanwhile, CASES[name].by_hand
    if not is_named(result, name) or CASES[name].cured is not None:
        return
    with ThreadPoolExecutor() as pool:
        going_on = pool.submit(meanwhile, causes) if meanwhile else None
        causes.cure({"kind": "command", "body": by_hand} if by_hand else result["findings"][0]["fix"])
        if going_on:
            going_on.result()


def healed(causes: Broken, name: str, cured: Future[None], mark: dict[str, str]) -> dict[str, Any]:
    """The check of a folder after its fix."""
    cured.result()
    case, options = CASES[name], options_of(causes, name)
    if case.follows:
        if name != "C05" and case.cured is None:
            causes.follow(case.client(), mark)
        if name != "C04":
            causes.wait_until(
                "the client is in sync", lambda: causes.in_sync(case.instead or case.service or name.lower(), case.client(), options.get("key", KEY))
            )
    return causes.measure(name, **options | (case.cured or {}) | ({"service": case.instead} if case.instead else {}))


@dataclass(frozen=True)
class Outcomes:
    """The checks before and after the fixes, by the folders' names; what kept one from being made is raised by its test.
    `others` is what two Envoys have for all other services, before and after."""

    broken: dict[str, Future[dict[str, Any]]]
    healed: dict[str, Future[dict[str, Any]]]
    others: tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(causes: Broken, request: pytest.FixtureRequest) -> Outcomes:
    """Of all folders of this run, those first that take long; fixes are run where their test is in this run."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function) and item.getparent(pytest.Module) is request.node]
    names = {(item.function.__name__, item.callspec.params["name"]) for item in here if hasattr(item, "callspec")}
    ordered = sorted({name for _test, name in names}, key=lambda name: (CASES[name].before is None, list(CASES).index(name)))
    mended = {name for test, name in names if test == test_its_fix_works.__name__}
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        before = {name: pool.submit(broken, causes, name) for name in ordered}
        wait(before.values())
        sound = [name for name in ordered if name in mended and not before[name].exception()]
        untouched = others(causes, sound)
        cured = {name: pool.submit(cure, causes, name, before[name].result()) for name in sound}
        wait(cured.values())
        mark = causes.mark()
        after = {name: pool.submit(healed, causes, name, cured[name], mark) for name in sound}
        wait(after.values())
    return Outcomes(before, after, (untouched, others(causes, sound)))


def others(causes: Broken, mended: list[str]) -> dict[str, Any]:
    """The clusters and virtual hosts of all services but those of these folders, in an Envoy of each of two namespaces. Namespaces
    of other tests are left out: their services come and go meanwhile."""
    own = {LAST, *(CASES[name].service or name.lower() for name in mended)}
    places = tuple(f".{namespace}.svc" for namespace in (NAMESPACE, OTHER, "sample", "istio-system", "kube-system", "default"))
    kept: dict[str, Any] = {}
    for namespace, pod in ((NAMESPACE, "test-pod"), (OTHER, "client-c12")):
        for resource in ("dynamic_active_clusters", "dynamic_route_configs"):
            page = ("pilot-agent", "request", "GET", f"config_dump?resource={resource}")
            dump = json.loads(causes.kubectl("-n", namespace, "exec", pod, "-c", "istio-proxy", "--", *page).stdout)
            parts = [part for entry in dump["configs"] for part in (entry.get("route_config") or {}).get("virtual_hosts", [entry.get("cluster")]) if part]
            shown = [part for part in parts if any(place in part["name"] for place in places) and not any(name in part["name"] for name in own)]
            kept |= {f"{pod} {part['name']}": part for part in shown}
    return kept


def test_no_fix_touches_another_service(outcomes: Outcomes) -> None:
    """Not in the client's Envoy, nor in one of another namespace."""
    before, after = outcomes.others
    assert len(before) > 20
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()


@pytest.mark.parametrize("name", CASES)
def test_a_cause_is_found_first(outcomes: Outcomes, name: str) -> None:
    case = CASES[name]
    result = outcomes.broken[name].result()
    assert result["verdict"] in case.verdicts, result["msg"]
    assert is_named(result, name), result["msg"]
    first = result["findings"][0]
    proven(first, case.shown)
    assert first["reference"].startswith("https://")
    assert result["verdict"] == "passed" or f"Cause {first['id']}: {first['title']}" in result["msg"]
    assert (first["fix"]["kind"] == "manual") == (name in MANUAL), first["fix"]


@pytest.mark.parametrize("name", [name if name in MENDED else pytest.param(name, marks=pytest.mark.full) for name in CASES])
def test_its_fix_works(outcomes: Outcomes, name: str) -> None:
    assert not outcomes.broken[name].exception(), "nothing was found to mend"
    after = outcomes.healed[name].result()
    assert after["verdict"] == "passed", after["msg"]
    assert not [finding for finding in after["findings"] if finding["severity"] != "info"]


def test_every_cause_that_is_said_to_be_proven_live_has_its_folder() -> None:
    live = {cause.id for cause in CATALOGUE if cause.synthetic is None}
    assert {name.partition("-")[0] for name in CASES} == live - PROVEN_ELSEWHERE
    assert {path.name for path in CAUSES.iterdir()} == {*CASES, "base"}


# The application that issues its own cookie is test_affinity_keys.py's.
PROVEN_ELSEWHERE = {"C63"}


def test_explaining_takes_under_a_second_of_processor_time(causes: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
    took: list[float] = []
    explain = _check.explain

    def timed(*arguments: Any) -> Any:
        # Of this thread: what else runs on the machine, or in this process, does not count.
        start = time.thread_time()
        try:
            return explain(*arguments)
        finally:
            took.append(time.thread_time() - start)

    monkeypatch.setattr(_check, "explain", timed)
    causes.measure("F5")
    assert len(took) == 1
    assert took[0] < 1
