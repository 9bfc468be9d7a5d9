# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Service cart of namespace shop and a client whose Envoy has what Istio makes of the rules: situations for the catalogue of causes.

Synthetic: it is made after states that were measured on Istio 1.31.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._causes import Client, Situation
from ansible_collections.meshops.istio.plugins.module_utils._istio.effect import Caller, Destination, cluster_balancer, hash_in_force, in_force, merged
from ansible_collections.meshops.istio.plugins.module_utils._istio.rules import named, policy_in
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    Backend,
    ClientPod,
    ClusterView,
    Facts,
    HashPolicy,
    Host,
    JsonDict,
    Key,
    Membership,
    ProxyView,
    RouteView,
    Target,
)

FQDN = "cart.shop.svc.cluster.local"
KEY = Key("header", "x-cart-id")
HASH = {"loadBalancer": {"consistentHash": {"httpHeaderName": "x-cart-id"}}}
BY_ID = HashPolicy("header", "x-cart-id")
SERVICE: JsonDict = {
    "metadata": {"name": "cart", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.7.7", "selector": {"app": "cart"}, "ports": [{"name": "http-web", "port": 8000}]},
}


def rule(name: str, namespace: str = "shop", created: str = "2026-01-01T00:00:00Z", **spec: Any) -> JsonDict:
    meta = {"name": name, "namespace": namespace, "creationTimestamp": created, "resourceVersion": "7"}
    return {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta, "spec": {"host": FQDN, **spec}}


def route(*http: JsonDict, hosts: Sequence[str] = (FQDN,), **spec: Any) -> JsonDict:
    return {"metadata": {"name": "cart", "namespace": "shop", "resourceVersion": "9"}, "spec": {"hosts": list(hosts), "http": list(http), **spec}}


def to(host: str = FQDN, **destination: Any) -> JsonDict:
    return {"route": [{"destination": {"host": host, **destination}}]}


def envoy(rules: Sequence[JsonDict], namespace: str = "shop", subset: str = "", by: JsonDict | None = None, host: str = FQDN, pods: int = 4) -> ProxyView:
    """What Istio makes of the rules for a client of a namespace. `by` is the VirtualService of the route."""
    caller, there = Caller(namespace), Destination(host, 8000, subset)
    near = in_force(rules, host, there.home, caller)
    known = hash_in_force(rules, there, caller)
    name = f"outbound|8000|{subset}|{host}"
    balancer = "RING_HASH" if policy_in(cluster_balancer(merged(near), there)) else "LEAST_REQUEST"
    hosts = tuple(Host(f"10.0.0.{number}:8080", True, "healthy", 1, 0, "", 0) for number in range(pods))
    return ProxyView(
        "1.31.0",
        100.0,
        RouteView("8000", FQDN, ((name, 100),), (known,) if known else (), named(by) if by else None, ""),
        ClusterView(name, "EDS", balancer, named(near[0]) if near else None, ""),
        hosts,
    )


def situation(
    view: ProxyView | None, rules: Sequence[JsonDict] = (), routes: Sequence[JsonDict] = (), namespace: str = "shop", *, key: Key = KEY, **more: Any
) -> Situation:
    """An inspection by a client of a namespace. `more` are a `service`, the client's `pod`, `labels` of its namespace, `revisions`
    and whether affinity is `expected`."""
    pod = more.get("pod") or {"metadata": {"name": "client", "namespace": namespace, "labels": {}}, "spec": {"containers": [{"name": "tools"}]}}
    space = {"metadata": {"name": namespace, "labels": more.get("labels", {"istio-injection": "enabled"}), "annotations": more.get("annotations", {})}}
    facts = Facts(
        services={("shop", "cart"): more.get("service") or SERVICE},
        namespaces={namespace: space},
        rules={"DestinationRule": tuple(rules), "VirtualService": tuple(routes), "Sidecar": tuple(more.get("sidecars", ()))},
        pods={(namespace, "client"): pod, **more.get("pods", {})},
        versions={"istiod": "1.31.0"},
        revisions=more.get("revisions", ("default",)),
    )
    client = ClientPod(namespace, "client", "uid", None, None, "tools", more.get("sidecar", True))
    backends = tuple(Backend(f"cart-{number}", str(number), f"10.0.0.{number}:8080", None, more.get("zone"), True) for number in range(4))
    membership = Membership({"s": 1}, backends, age=more.get("age"))
    return Situation(
        key,
        Target("shop", "cart", 8000, "http-web", "cart"),
        facts,
        (Client(client, (view,) if view else ()),),
        membership,
        expected=more.get("expected", True),
    )


# -- any rules --

RANDOM: JsonDict = {"loadBalancer": {"simple": "RANDOM"}}


def port(number: int, policy: JsonDict) -> JsonDict:
    """An entry of portLevelSettings."""
    return {"port": {"number": number}, **policy}


POLICIES = st.sampled_from([{}, RANDOM, HASH, {"tls": {"mode": "SIMPLE"}}, {"portLevelSettings": [port(8000, HASH)]}])
RULES = st.builds(
    lambda name, space, host, policy, subset, to, app: {
        **rule(name, space),
        "spec": {"host": host, "trafficPolicy": policy, "subsets": [{"name": "v1", "trafficPolicy": subset}], "exportTo": to}
        | ({"workloadSelector": {"matchLabels": {"app": app}}} if app else {}),
    },
    st.sampled_from("abc"),
    st.sampled_from(["shop", "till", "istio-system"]),
    st.sampled_from([FQDN, "*.shop.svc.cluster.local", "*"]),
    POLICIES,
    POLICIES,
    st.sampled_from([["*"], ["."]]),
    st.sampled_from([None, "x"]),
)
