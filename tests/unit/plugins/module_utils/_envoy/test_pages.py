# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from admin pages besides route, cluster and hosts. The listener is as the lab's Envoy printed it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.clusters import parse_hosts
from ansible_collections.meshops.istio.plugins.module_utils._envoy.pages import admin_pages, wide_filter, wide_pages
from ansible_collections.meshops.istio.plugins.module_utils._envoy.prediction import no_prediction, touches_key
from ansible_collections.meshops.istio.plugins.module_utils._envoy.routes import tcp_route
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import AdminDump, hashed_ports, parse_pages, view_of
from ansible_collections.meshops.istio.plugins.module_utils._model import HashPolicy, Key, Target

KEY = Key("header", "user-session")
NAME = "outbound|80||shop.sample.svc.cluster.local"
TARGET = Target("sample", "shop", 80, "http", "shop")
DOMAINS = ["shop.sample.svc.cluster.local", "shop", "shop.sample.svc", "shop.sample", "10.102.225.70"]
LISTENER: dict[str, Any] = {
    "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump.DynamicListener",
    "name": "10.102.225.70_80",
    "active_state": {
        "listener": {
            "name": "10.102.225.70_80",
            "filter_chains": [
                {
                    "filters": [
                        {
                            "name": "envoy.filters.network.tcp_proxy",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                                "cluster": NAME,
                                "hash_policy": [{"source_ip": {}}],
                            },
                        }
                    ]
                }
            ],
        }
    },
}
FIELDS = ("health_flags::healthy", "weight::1", "priority::0", "rq_total::0")
HASHED = {"hash_policy": [{"header": {"header_name": "user-session"}}]}


def pages(action: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **route: Any) -> dict[str, bytes]:
    """Pages of a service with one route (None: none of HTTP) and one cluster."""
    host = {"name": "shop:80", "domains": DOMAINS, "routes": [{"match": {"prefix": "/"}, "route": action, **route}]}
    configs = [{"route_config": {"name": "80", "virtual_hosts": [host]}}] if action is not None else []
    lines = [f"{NAME}::10.0.0.{number}:80::{field}" for number in (1, 2) for field in (*FIELDS, "zone::zone-a")]
    found = {
        "info": {"version": "x", "node": {"metadata": {"ISTIO_VERSION": "1.31.0"}}},
        "routes": {"configs": configs},
        "clusters": {"configs": [{"cluster": {"name": NAME, "type": "EDS", "lb_policy": "RING_HASH", **(cluster or {})}}]},
        "listeners": {"configs": [LISTENER]},
    }
    return {name: json.dumps(body).encode() for name, body in found.items()} | {"hosts": "\n".join(lines).encode()}


def dump(**words: Any) -> AdminDump:
    found = parse_pages(pages(**words))
    assert found is not None
    return found


def test_no_envoy_no_dump() -> None:
    assert parse_pages({}) is None


def test_a_tcp_port_is_seen_by_its_listener_and_only_where_no_virtual_host_serves_it() -> None:
    target = replace(TARGET, listener=LISTENER["name"])
    view = view_of(dump(), target)
    assert view.is_tcp()
    assert view.route is not None
    assert (view.route.protocol, view.route.hash_policies) == ("tcp", (HashPolicy("source_ip", None),))
    assert no_prediction(view, Key("source_ip", None)) is None
    http = view_of(dump(action={"cluster": NAME, **HASHED}), target)
    assert http.route is not None
    assert not http.is_tcp()
    assert admin_pages(target).keys() - admin_pages(TARGET).keys() == {"listeners"}


def test_a_listener_that_takes_requests_for_http_is_no_tcp_route() -> None:
    sniffing = json.loads(json.dumps(LISTENER))
    chain = {"filters": [{"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"}}]}
    sniffing["active_state"]["listener"]["filter_chains"].append(chain)
    assert tcp_route(sniffing) is None
    assert tcp_route({"name": "empty"}) is None


def test_a_virtual_host_is_named_even_where_no_route_of_it_is_for_the_probe() -> None:
    view = view_of(dump(action={"cluster": NAME}, match={"prefix": "/", "headers": [{"name": "x", "present_match": True}]}), TARGET)
    assert (view.route, view.virtual_host) == (None, "shop:80")


def test_another_port_of_the_same_service_is_not_mistaken_for_it() -> None:
    view = view_of(dump(action={"cluster": NAME}), Target("sample", "shop", 8080, "other", "shop"))
    assert (view.route, view.virtual_host) == (None, None)


@pytest.mark.parametrize(
    ("route", "word"),
    [
        ({"request_headers_to_remove": ["User-Session"]}, "removes"),
        ({"request_headers_to_add": [{"header": {"key": "User-Session", "value": "x"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}, "sets"),
        ({"request_headers_to_add": [{"header": {"key": "user-session", "value": "x"}}]}, "adds"),
        ({"request_headers_to_add": [{"header": {"key": "other", "value": "x"}}]}, None),
    ],
)
def test_what_the_route_does_to_the_key_is_seen_and_forbids_a_prediction(route: dict[str, Any], word: str | None) -> None:
    view = view_of(dump(action={"cluster": NAME, **HASHED}, **route), TARGET)
    assert touches_key(view, KEY) == word
    assert (no_prediction(view, KEY) is None) == (word is None)


@pytest.mark.parametrize(
    ("cluster", "reason"),
    [
        ({}, None),
        ({"ring_hash_lb_config": {"minimum_ring_size": "64"}}, None),
        ({"ring_hash_lb_config": {"hash_function": "XX_HASH"}}, None),
        ({"ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}}, "an EnvoyFilter changes how requests are hashed: another hash function"),
        ({"common_lb_config": {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}}}, "consistent_hashing_lb_config"),
        ({"load_balancing_policy": {"policies": []}}, "load_balancing_policy"),
        ({"common_lb_config": {"locality_weighted_lb_config": {}}}, None),
    ],
)
def test_balancing_that_only_a_filter_makes_forbids_a_prediction(cluster: dict[str, Any], reason: str | None) -> None:
    found = no_prediction(view_of(dump(action={"cluster": NAME, **HASHED}, cluster=cluster), TARGET), KEY)
    assert found is None if reason is None else found is not None and reason in found


def test_a_clusters_own_hash_policy_is_read() -> None:
    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": HASHED}
    view = view_of(dump(action={"cluster": NAME}, cluster={"typed_extension_protocol_options": options}), TARGET)
    assert (view.balances_by(KEY), no_prediction(view, KEY)) == (True, None)


def test_a_weighted_route_is_as_good_as_one_only_over_the_same_hosts() -> None:
    """Synthetic: the second cluster has the same hosts by the same ring, or by none."""
    second = NAME.replace("||", "|v2|")
    action = {"weighted_clusters": {"clusters": [{"name": NAME, "weight": 50}, {"name": second, "weight": 50}]}, "hash_policy": HASHED["hash_policy"] * 2}
    body = pages(action=action)
    clusters = json.loads(body["clusters"])
    for policy, expected in (("RING_HASH", True), ("RANDOM", False)):
        both = [*clusters["configs"], {"cluster": {"name": second, "lb_policy": policy}}]
        hosts = body["hosts"] + b"\n" + body["hosts"].replace(NAME.encode(), second.encode())
        found = parse_pages(body | {"clusters": json.dumps({"configs": both}).encode(), "hosts": hosts})
        assert found is not None
        view = view_of(found, TARGET)
        assert (view.alike, no_prediction(view, KEY) is None) == (expected, expected)


def test_hbone_addresses_are_told_apart_and_forbid_a_prediction() -> None:
    """Synthetic, after Envoy's way to print an internal address: the lab has no ambient mesh."""
    text = "\n".join(f"{NAME}::envoy://connect_originate/10.0.0.{number}:80::{line}" for number in (1, 2) for line in FIELDS)
    hosts = parse_hosts(text)[NAME]
    assert [(host.address, host.hbone) for host in hosts] == [("10.0.0.1:80", True), ("10.0.0.2:80", True)]
    found = parse_pages(pages(action={"cluster": NAME, **HASHED}) | {"hosts": text.encode()})
    assert found is not None
    assert no_prediction(view_of(found, TARGET), KEY) == "hosts are reached through HBONE tunnels"


@pytest.mark.parametrize(
    ("settings", "panics"),
    [({}, False), ({"healthy_panic_threshold": {}}, False), ({"healthy_panic_threshold": {"value": 70}}, True)],
)
def test_below_the_threshold_envoy_panics_and_nothing_is_predicted(settings: dict[str, Any], panics: bool) -> None:
    """One of two hosts is out. The lab's Envoy prints a threshold of nothing, Istio's own, as an empty object."""
    body = pages(action={"cluster": NAME, **HASHED}, cluster={"common_lb_config": settings})
    out = body["hosts"].replace(b"10.0.0.2:80::health_flags::healthy", b"10.0.0.2:80::health_flags::/failed_outlier_check")
    found = parse_pages(body | {"hosts": out})
    assert found is not None
    view = view_of(found, TARGET)
    assert view.panics() is panics
    assert ("panic" in (no_prediction(view, KEY) or "")) is panics


def test_either_half_marks_a_port() -> None:
    assert hashed_ports(dump()) == {("sample", "shop"): {80}}
    assert hashed_ports(dump(action={"cluster": NAME, **HASHED}, cluster={"lb_policy": "RANDOM"})) == {("sample", "shop"): {80}}
    assert hashed_ports(dump(action={"cluster": NAME}, cluster={"lb_policy": "RANDOM"})) == {}


def test_a_wide_look_names_what_it_wants() -> None:
    urls = wide_pages(["sample"], [80, 8080], ["10.0.0.1_90"])
    patterns = {name: re.compile(unquote(url.partition("name_regex=")[2])) for name, url in urls.items() if name != "info"}
    assert patterns["clusters"].match(NAME)
    assert not patterns["clusters"].match(NAME.replace(".sample.", ".other."))
    assert all(patterns["routes"].match(name) for name in ("80", "8080", "shop.sample.svc.cluster.local:80"))
    assert not any(patterns["routes"].match(name) for name in ("90", "shop.other.svc.cluster.local:80"))
    assert patterns["listeners"].match("10.0.0.1_90")
    assert "listeners" not in wide_pages(None, [80], [])
    assert (wide_filter(["sample"]), wide_filter(["a", "b"]), wide_filter(None)) == (".sample.svc.", "outbound|", "outbound|")
