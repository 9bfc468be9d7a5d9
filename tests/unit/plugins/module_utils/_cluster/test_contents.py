# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a namespace: everything that can be listed in it, except what comes by itself or belongs to the sample."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._cluster.contents import Contents, Item, Kind, foreign, item_of, kinds_of, read_contents
from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError

OWN = {"app.kubernetes.io/managed-by": "meshops.istio", "app.kubernetes.io/part-of": "istio-sample"}
GROUPS = {
    "Deployment": "apps",
    "ReplicaSet": "apps",
    "StatefulSet": "apps",
    "EndpointSlice": "discovery.k8s.io",
    "VirtualService": "networking.istio.io",
    "Certificate": "cert-manager.io",
    "Gateway": "gateway.networking.k8s.io",
}


def kind(name: str) -> Kind:
    return Kind(GROUPS.get(name, ""), "v1", f"{name.lower()}s", name)


def item(what: str, **more: Any) -> Item:
    """Synthetic, after the objects that site.yml leaves in the lab's namespace `sample`; `of` names the controller as `Kind name`."""
    what, name = what.split(" ")
    of = more.pop("of", "")
    controller = (of, GROUPS.get(of.split(" ")[0], ""), of.split(" ")[0]) if of else None
    return Item(kind(what), name, f"{what} {name}", controller=controller, **more)


SAMPLE = (
    item("Deployment nginx-deployment", labels=OWN | {"app": "nginx"}),
    item("ReplicaSet nginx-deployment-5f9b", labels=OWN, of="Deployment nginx-deployment"),
    item("Pod nginx-deployment-5f9b-x", of="ReplicaSet nginx-deployment-5f9b"),
    item("Pod test-pod", labels=OWN),
    item("Service nginx-service", labels=OWN),
    item("EndpointSlice nginx-service-29x77", of="Service nginx-service"),
    item("Endpoints nginx-service", labels={"endpoints.kubernetes.io/managed-by": "endpoint-controller"}),
    item("ConfigMap nginx-deployment", labels=OWN),
)
AUTOMATIC = (
    item("ConfigMap kube-root-ca.crt"),
    item("ConfigMap istio-ca-root-cert"),
    item("ConfigMap istio-ca-crl"),
    item("ServiceAccount default"),
    item("Secret default-token-x7", annotations={"kubernetes.io/service-account.name": "default"}),
    item("Endpoints old", annotations={"endpoints.kubernetes.io/last-change-trigger-time": "2026-11-27T22:38:39Z"}),
)


def names(*items: Item, own: dict[str, str] | None = None, ignore: tuple[tuple[str, str], ...] = ()) -> list[str]:
    kinds = frozenset((group, name) for name, group in GROUPS.items()) | {("", name) for name in ("Pod", "Service", "ConfigMap", "Secret")}
    return [f"{found.kind.kind} {found.name}" for found in foreign(Contents(items, kinds, ()), OWN if own is None else own, ignore)]


def test_the_sample_alone_keeps_nothing():
    assert names(*SAMPLE, *AUTOMATIC) == []
    # After the sample's objects were deleted: what the garbage collector has not come to.
    assert names(*AUTOMATIC, *(left for left in SAMPLE if left.controller), item("Secret going", leaving=True)) == []


@pytest.mark.parametrize(
    "theirs",
    [
        item("VirtualService theirs"),
        item("StatefulSet theirs"),
        item("Certificate theirs"),
        item("Secret theirs"),
        item("ConfigMap theirs", labels={"app.kubernetes.io/managed-by": "meshops.istio", "app.kubernetes.io/part-of": "istio-affinity"}),
        item("ServiceAccount theirs"),
        item("Secret theirs", annotations={"kubernetes.io/service-account.name": "theirs"}),
        item("Endpoints theirs"),
        item("VirtualService default"),
        item("Pod theirs", of="Node node-1"),
        item("Deployment theirs", labels={"app.kubernetes.io/part-of": "istio-sample"}),
    ],
    ids=lambda theirs: f"{theirs.kind.kind}-{theirs.name}",
)
def test_anything_else_keeps_the_namespace(theirs: Item):
    assert names(*SAMPLE, *AUTOMATIC, theirs) == [f"{theirs.kind.kind} {theirs.name}"]


def test_a_foreign_workload_is_named_once():
    theirs = (item("Deployment theirs"), item("ReplicaSet theirs-1", of="Deployment theirs"), item("Pod theirs-1-x", of="ReplicaSet theirs-1"))
    assert names(*SAMPLE, *theirs) == ["Deployment theirs"]


def test_more_may_be_ignored_and_without_labels_all_are_foreign():
    leaders = (item("ConfigMap istio-leader"), item("ConfigMap istio"), item("Secret istio-ca-secret"))
    assert names(*leaders, ignore=(("ConfigMap", "istio-*"), ("Secret", "istio-ca-secret"))) == ["ConfigMap istio"]
    assert names(SAMPLE[0], own={}) == ["Deployment nginx-deployment"]


def test_kinds_are_those_that_a_deletion_would_delete():
    # Synthetic, after an API server's documents.
    resources = [
        {"name": "pods", "kind": "Pod", "namespaced": True, "verbs": ["list", "delete"]},
        {"name": "pods/log", "kind": "Pod", "namespaced": True, "verbs": ["get"]},
        {"name": "nodes", "kind": "Node", "namespaced": False, "verbs": ["list", "delete"]},
        {"name": "events", "kind": "Event", "namespaced": True, "verbs": ["list", "delete"]},
        {"name": "bindings", "kind": "Binding", "namespaced": True, "verbs": ["create"]},
    ]
    assert kinds_of("", "v1", resources) == [Kind("", "v1", "pods", "Pod")]
    # As metrics-server serves them: nobody deletes them.
    assert not kinds_of("metrics.k8s.io", "v1beta1", [{"name": "pods", "kind": "PodMetrics", "namespaced": True, "verbs": ["get", "list"]}])


class ApiServer:
    """The discovery and lists of an API server. One group is down, one kind may not be listed, one is served in an old version only."""

    def api_groups(self) -> list[tuple[str, tuple[str, ...]]]:
        return [("", ("v1",)), ("networking.istio.io", ("v1", "v1alpha3")), ("down.example.com", ("v1",))]

    def api_resources(self, group: str, version: str) -> list[dict[str, Any]]:
        if group == "down.example.com":
            raise CheckError("api_error", "The API server responded with 503 Service Unavailable (get /apis/down.example.com/v1).")
        served = {"v1": ("Pod", "Secret") if not group else ("Sidecar",), "v1alpha3": ("Sidecar", "EnvoyFilter")}[version]
        return [{"name": f"{name.lower()}s", "kind": name, "namespaced": True, "verbs": ["list", "delete"]} for name in served]

    def metadata(self, _group: str, version: str, plural: str, namespace: str) -> list[dict[str, Any]]:
        if plural == "secrets":
            raise CheckError("forbidden", f"No permission to list secrets in namespace {namespace}.")
        return [{"metadata": {"name": f"{plural}-{version}", "uid": plural}}]


def test_what_cannot_be_read_is_noted():
    contents = read_contents(ApiServer(), "sample")  # type: ignore[arg-type] # the three calls that it makes
    assert sorted(found.name for found in contents.items) == ["envoyfilters-v1alpha3", "pods-v1", "sidecars-v1"]
    assert [text.partition(" (")[0] for text in contents.unread] == [
        "The API server responded with 503 Service Unavailable",
        "No permission to list secrets in namespace sample.",
    ]


def test_metadata_of_an_object():
    owners = [{"apiVersion": "v1", "kind": "Node", "uid": "n"}, {"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "r", "controller": True}]
    read = item_of(kind("Pod"), {"metadata": {"name": "x", "uid": "u", "ownerReferences": owners, "deletionTimestamp": "2026-11-27T22:38:39Z"}})
    assert (read.controller, read.leaving) == (("r", "apps", "ReplicaSet"), True)
    assert item_of(kind("Pod"), {"metadata": {"name": "x", "uid": "u"}}) == Item(kind("Pod"), "x", "u")
