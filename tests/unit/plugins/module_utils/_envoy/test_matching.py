# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which route a request of the probe takes. The matchers are as Istio writes them into Envoy's configuration (route.go)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.matching import OWN_HEADERS, request_of, virtual_host_for
from ansible_collections.meshops.istio.plugins.module_utils._envoy.re2 import Budget
from ansible_collections.meshops.istio.plugins.module_utils._envoy.view import parse_pages, view_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Key, ProxyView, Target, Via
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import USER_AGENT

KEY = Key("header", "x-cart-id")
TARGET = Target("shop", "cart", 8000, "http-web", "cart", path="/web?tier=gold", headers=(("X-Lane", "blue"), ("Cookie", "canary-seat=in")), key=KEY)
HASH = [{"header": {"header_name": "x-cart-id"}}]
ANY = {"prefix": "/"}


def cluster_of(name: str) -> str:
    return f"outbound|8000||{name}.shop.svc.cluster.local"


def to(name: str, match: dict[str, Any] | None = None, **route: Any) -> dict[str, Any]:
    return {"match": match or ANY, "route": {"cluster": cluster_of(name), "hash_policy": HASH}, **route}


def view_for(target: Target, *routes: dict[str, Any], **host: Any) -> ProxyView:
    virtual_host = {"name": "cart:8000", "domains": ["cart.shop.svc.cluster.local", "cart", "cart.shop.svc"], "routes": list(routes), **host}
    pages = {
        "info": {"version": "x"},
        "routes": {"configs": [{"route_config": {"name": "8000", "virtual_hosts": [virtual_host]}}]},
        "clusters": {"configs": [{"cluster": {"name": cluster_of(name), "lb_policy": "RING_HASH"}} for name in ("cart", "other")]},
    }
    dump = parse_pages({name: json.dumps(page).encode() for name, page in pages.items()} | {"hosts": b""})
    assert dump is not None
    return view_of(dump, target)


def taken(view: ProxyView) -> str | None:
    """The service that the route leads to, None without a route."""
    return view.route.clusters[0][0].split("|")[3].split(".")[0] if view.route and view.route.clusters else None


def header(name: str, **matcher: Any) -> dict[str, Any]:
    return {**ANY, "headers": [{"name": name, **matcher}]}


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        # headers of the option
        (header("x-lane", string_match={"exact": "blue"}), True),
        (header("x-lane", string_match={"exact": "green"}), False),
        (header("X-LANE", string_match={"exact": "BLUE", "ignore_case": True}), True),
        (header("x-lane", string_match={"prefix": "bl"}), True),
        (header("x-lane", string_match={"suffix": "ue"}), True),
        (header("x-lane", string_match={"contains": "lu"}), True),
        (header("x-lane", string_match={"safe_regex": {"regex": "b.*"}}), True),
        (header("x-lane", exact_match="blue"), True),
        (header("x-lane", safe_regex_match={"regex": "green|red"}), False),
        (header("x-lane", present_match=True), True),
        (header("x-other", present_match=True), False),
        (header("x-other", present_match=True, invert_match=True), True),
        (header("x-lane", string_match={"exact": "blue"}, invert_match=True), False),
        (header("x-lane", string_match={"exact": "green"}, invert_match=True), True),
        # A header that is missing matches nothing, not even the opposite, unless it counts as an empty one.
        (header("x-other", string_match={"exact": "x"}, invert_match=True), False),
        (header("x-other", string_match={"exact": "x"}, invert_match=True, treat_missing_header_as_empty=True), True),
        (header("cookie", string_match={"safe_regex": {"regex": ".*canary-seat=in.*"}}), True),
        # the key
        (header("x-cart-id", present_match=True), True),
        (header("x-cart-id", string_match={"prefix": "sid-"}), True),
        # Envoy's own
        (header(":method", string_match={"exact": "GET"}), True),
        (header(":method", string_match={"exact": "POST"}), False),
        (header(":authority", string_match={"exact": "cart:8000"}), True),
        (header(":authority", string_match={"prefix": "shop."}), False),
        (header(":scheme", string_match={"exact": "http"}), True),
        (header("user-agent", string_match={"prefix": "meshops.istio"}), True),
        (header("x-lane", range_match={"start": "1", "end": "5"}), False),
        # path and query
        ({"path": "/web"}, True),
        ({"path": "/WEB", "case_sensitive": False}, True),
        ({"path_separated_prefix": "/web"}, True),
        ({"path_separated_prefix": "/we"}, False),
        ({"safe_regex": {"regex": "/w.b"}}, True),
        ({**ANY, "query_parameters": [{"name": "tier", "string_match": {"exact": "gold"}}]}, True),
        ({**ANY, "query_parameters": [{"name": "tier", "string_match": {"exact": "tin"}}]}, False),
        ({**ANY, "query_parameters": [{"name": "tier", "present_match": True}]}, True),
        ({**ANY, "query_parameters": [{"name": "none", "present_match": True}]}, False),
        # others
        ({**ANY, "grpc": {}}, False),
        ({**ANY, "runtime_fraction": {"default_value": {"numerator": 100}}}, True),
        ({**ANY, "runtime_fraction": {"default_value": {"denominator": "MILLION"}}}, False),
        # not to be evaluated
        ({**ANY, "runtime_fraction": {"default_value": {"numerator": 10}}}, None),
        ({**ANY, "dynamic_metadata": [{}]}, None),
        ({"path_match_policy": {}}, None),
        ({"safe_regex": {"regex": r"/\pL+"}}, None),
        (header("x-lane", string_match={"custom": {}}), None),
        (header("x-forwarded-proto", string_match={"exact": "https"}), None),
    ],
)
def test_a_route_is_taken_as_envoy_takes_it(match: dict[str, Any], fits: bool | None) -> None:
    view = view_for(replace(TARGET, sessions=("sid-1", "sid-2")), to("other", match), to("cart"))
    assert taken(view) == {True: "other", False: "cart", None: None}[fits]
    assert (view.doubt is None) == (fits is not None)


def test_a_route_that_cannot_be_evaluated_is_no_doubt_if_it_does_the_same() -> None:
    unsure = {**ANY, "runtime_fraction": {"default_value": {"numerator": 10}}}
    view = view_for(TARGET, to("cart", unsure), to("cart"))
    assert (taken(view), view.doubt) == ("cart", None)
    assert view_for(TARGET, to("other", unsure), to("cart")).doubt == "a share of 10 in 100 requests cannot be evaluated"


def test_lanes_by_the_key_and_requests_without_it_are_named() -> None:
    """As in a canary that is chosen by the session's own header: with it, requests stick, without it they take another route."""
    view = view_for(TARGET, to("cart", header("x-cart-id", present_match=True)), to("other", header("cookie", string_match={"exact": "x"})), to("other"))
    assert taken(view) == "cart"
    assert view.keyless is not None
    assert view.keyless.clusters[0][0] == cluster_of("other")
    alone = view_for(TARGET, to("cart", header("x-cart-id", present_match=True)))
    assert alone.keyless is not None
    assert alone.keyless.answered == "404, as no route matches"
    lane = view_for(replace(TARGET, headers=()), to("other", header("cookie", string_match={"exact": "in"})), to("cart")).lanes[0]
    assert (lane.condition, lane.clusters) == ("header cookie exact in", (cluster_of("other"),))


def test_what_is_shown_of_a_condition_is_short_printable_and_no_token() -> None:
    hostile = header("x-lane", string_match={"exact": "\x1b[2J" + "x" * 5_000})
    secret = header("Authorization", string_match={"exact": "Bearer abc"})
    long, hidden = view_for(TARGET, to("other", hostile), to("other", secret), to("cart")).lanes
    assert long.condition.startswith("header x-lane exact ?[2Jxxx")
    assert len(long.condition) < 110
    assert hidden.condition == "header authorization exact (hidden)"


def test_sessions_that_take_different_routes_are_a_doubt() -> None:
    one = header("x-cart-id", string_match={"exact": "sid-1"})
    view = view_for(replace(TARGET, sessions=("sid-1", "sid-2")), to("other", one), to("cart"))
    assert (view.route, view.doubt) == (None, "sessions take different routes, by the value of the key")
    assert taken(view_for(replace(TARGET, sessions=("sid-2", "sid-3")), to("other", one), to("cart"))) == "cart"


@pytest.mark.parametrize(
    ("action", "words"), [({"redirect": {"path_redirect": "/x"}}, "a redirect"), ({"direct_response": {"status": 503}}, "a direct response")]
)
def test_what_envoy_answers_itself_reaches_no_cluster(action: dict[str, Any], words: str) -> None:
    view = view_for(TARGET, {"match": ANY, **action}, to("cart"))
    assert view.route is not None
    assert (view.route.answered, view.cluster) == (words, None)
    secure = view_for(TARGET, to("cart"), require_tls="ALL")
    assert secure.route is not None
    assert secure.route.answered == "a redirect"


def test_the_request_is_the_one_that_curl_sends() -> None:
    assert OWN_HEADERS["user-agent"] == USER_AGENT
    cookie = request_of(replace(TARGET, key=Key("cookie", "sid")), "7", Budget())
    assert cookie.headers["cookie"] == "canary-seat=in; sid=7"
    query = request_of(replace(TARGET, key=Key("query", "sid")), "a b", Budget())
    assert query.headers[":path"] == "/web?tier=gold&sid=a%20b"
    assert query.query == {"tier": "gold", "sid": "a%20b"}


# -- through a gateway --

HOSTS = [
    {"name": "any", "domains": ["*"]},
    {"name": "short", "domains": ["*.com"]},
    {"name": "suffix", "domains": ["*.example.com"]},
    {"name": "prefix", "domains": ["shop.*"]},
    {"name": "exact", "domains": ["Shop.example.com"]},
]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("shop.example.com", "exact"),
        ("SHOP.example.com:8080", "exact"),
        ("api.example.com", "suffix"),
        ("a.com", "short"),
        ("shop.local", "prefix"),
        ("x", "any"),
    ],
)
def test_a_host_is_exact_then_the_longest_suffix_then_a_prefix_then_any(host: str, name: str) -> None:
    found = virtual_host_for({"virtual_hosts": HOSTS, "ignore_port_in_host_matching": True}, host)
    assert found is not None
    assert found["name"] == name


def test_a_port_counts_where_envoy_does_not_ignore_it() -> None:
    found = virtual_host_for({"virtual_hosts": HOSTS}, "shop.example.com:8080")
    assert found is not None
    assert found["name"] == "prefix"
    assert virtual_host_for({"virtual_hosts": HOSTS[4:]}, "other.example.com") is None


def test_only_the_route_configuration_of_the_called_port_counts() -> None:
    """`*` was listed first, and so was a port that only redirects: their rule was taken for the host's."""
    via = Via("gw.istio-ingress", 80, "shop.example.com", "istio-ingress", "gw", None, 8080)
    target = replace(TARGET, via=via, headers=())
    other = {"name": "http.8081", "virtual_hosts": [{"name": "o", "domains": ["shop.example.com"], "routes": [to("other")]}]}
    called = {
        "name": "http.8080",
        "virtual_hosts": [
            {"name": "any", "domains": ["*"], "routes": [to("other")]},
            {"name": "shop", "domains": ["shop.example.com"], "routes": [to("cart")]},
        ],
    }
    pages = {"info": {"version": "x"}, "routes": {"configs": [{"route_config": other}, {"route_config": called}]}, "clusters": {"configs": []}}
    dump = parse_pages({name: json.dumps(page).encode() for name, page in pages.items()} | {"hosts": b""})
    assert dump is not None
    view = view_of(dump, target)
    assert (view.virtual_host, taken(view)) == ("shop", "cart")
