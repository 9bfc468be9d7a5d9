# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role istio_affinity decides between its tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.meshops.istio.plugins.filter.affinity import (
    affinity_entries,
    affinity_how_to_opt_in,
    affinity_plan,
    affinity_targets,
)

CART = {"namespace": "shop", "service": "cart"}
HEADER = {"type": "header", "name": "user-session"}


def _service(name: str, **annotations: str) -> dict[str, Any]:
    marks = {f"meshops.istio/{mark.replace('_', '-')}": text for mark, text in annotations.items()}
    return {"metadata": {"namespace": "shop", "name": name, "annotations": marks}}


def _found(name: str = "cart", port: int = 80, ready: int = 3, **more: Any) -> dict[str, Any]:
    pods = [{"pod": f"{name}-{number}", "ready": number < ready} for number in range(3)]
    return {"namespace": "shop", "service": name, "port": port, "key": HEADER, "static_verdict": "sticks", "why": "", "backends": pods} | more


def _entry(target: dict[str, Any], *found: dict[str, Any], **more: Any) -> dict[str, Any]:
    item, *_others = affinity_plan(affinity_targets([target]), found, **more)
    return item["entry"]


# -- who opted in --


def test_annotations_opt_in_as_an_entry_of_the_inventory_does():
    marked = _service("cart", probe="/healthz", probe_key="cookie:cart", probe_port="8080", single_replica="true")
    assert affinity_targets([], [marked, _service("search"), {"metadata": {"namespace": "shop", "name": "bare"}}]) == [
        CART | {"path": "/healthz", "key": {"type": "cookie", "name": "cart"}, "port": 8080, "single": True}
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [("source_ip", {"type": "source_ip"}), ("header: user-session ", HEADER), ("query:sid", {"type": "query", "name": "sid"})],
)
def test_an_annotated_key(text: str, key: dict[str, Any]):
    assert affinity_targets([], [_service("cart", probe="/", probe_key=text)])[0]["key"] == key


@pytest.mark.parametrize(
    ("marks", "word"),
    [
        ({"probe": "yes"}, "meshops.istio/probe is 'yes'"),
        ({"probe": "/", "probe_key": "user-session"}, "meshops.istio/probe-key is 'user-session'"),
        ({"probe": "/", "probe_key": "header:"}, "meshops.istio/probe-key is 'header:'"),
        ({"probe": "/", "probe_key": "source_ip:x"}, "meshops.istio/probe-key is 'source_ip:x'"),
        ({"probe": "/", "probe_port": "http"}, "meshops.istio/probe-port is 'http'"),
        ({"probe": "/", "probe_port": "80\n"}, "meshops.istio/probe-port is '80\n'"),
    ],
)
def test_an_annotation_that_is_not_well_formed_is_an_error_of_its_service(marks: dict[str, str], word: str):
    targets = affinity_targets([], [_service("cart", **marks)])
    assert word in targets[0]["refused"]
    assert word in affinity_plan(targets, [_found()])[0]["entry"]["error"]


def test_the_inventory_counts_before_annotations():
    listed = CART | {"path": "/ready", "key": None}
    marked = _service("cart", probe="nonsense", probe_key="header:user-session")
    assert affinity_targets([listed], [marked]) == [CART | {"path": "/ready", "key": HEADER}]


def test_annotations_add_nothing_to_an_entry_with_headers():
    """The author of a Service chose the path and the port to which the operator's credentials were sent."""
    listed = CART | {"headers": {"Authorization": "Bearer x"}}
    assert affinity_targets([listed], [_service("cart", probe="/steal", probe_port="9999", single_replica="true")]) == [listed]


def test_targets_are_sorted_and_what_names_no_service_is_left_out():
    listed = [{"namespace": "b", "service": "z"}, {"namespace": "b"}, {"namespace": "b", "service": "a"}]
    assert [target["service"] for target in affinity_targets(listed, [_service("cart", probe="/")])] == ["a", "z", "cart"]


@pytest.mark.parametrize("value", ["shop/cart", ["shop/cart"], {"shop": "cart"}, None])
def test_what_is_no_list_of_dicts_is_refused(value: Any):
    with pytest.raises(AnsibleFilterError, match=r"affinity_targets needs lists of dicts. .*ansible-doc"):
        affinity_targets(value)


# -- what is to be probed --


@pytest.mark.parametrize(("probe", "live"), [(None, True), (True, True), (False, False), ("false", False), ("no", False), ("maybe", False), ("yes", True)])
def test_only_a_clear_yes_or_nothing_has_requests_sent(probe: Any, live: bool):
    assert _entry(CART | {"probe": probe}, _found())["live"] is live


@pytest.mark.parametrize(("ready", "live"), [(0, False), (1, False), (2, True)])
def test_one_replica_by_intent_is_probed_as_soon_as_there_are_two(ready: int, live: bool):
    entry = _entry(CART | {"single": "yes"}, _found(ready=ready))
    assert (entry["live"], entry["single"]) == (live, True)


def test_a_quoted_no_does_not_make_a_service_one_of_one_replica():
    entry = _entry(CART | {"single": "false"}, _found(ready=1))
    assert (entry["live"], entry["single"]) == (True, False)


def test_one_replica_by_intent_is_not_assumed_of_a_port_that_was_not_found():
    assert _entry(CART | {"single": True, "port": 8080}, _found(ready=1))["live"] is True
    assert _entry(CART | {"single": True}, looked=False)["live"] is True


def test_each_port_has_its_own_rule():
    first, second = _found(port=80, rule="shop/a"), _found(port=8080, rule="shop/b")
    assert _entry(CART | {"port": "8080"}, first, second)["static"] == second
    assert _entry(CART, first, second)["static"] == first


def test_a_port_is_never_judged_by_the_rule_of_another_port():
    other = _found(port=80, rule="shop/a")
    static = _entry(CART | {"port": 8080, "probe": False, "key": HEADER}, other)["static"]
    assert static == {"static_verdict": "does_not", "why": "no rule asks for affinity on port 8080"}
    assert _entry(CART | {"port": 8080, "probe": False}, other, looked=False)["static"] is None


def test_a_port_that_is_not_named_takes_no_other_ports_verdict():
    """The ports agree, or there is no statement."""
    sticks, broken = _found(port=80), _found(port=8080, static_verdict="does_not", why="no hash policy")
    assert _entry(CART, broken, _found(port=81, static_verdict="does_not"))["static"]["static_verdict"] == "does_not"
    for found in ((sticks, broken), (broken, sticks)):
        static = _entry(CART, *found)["static"]
        assert static["static_verdict"] == "unknown"
        assert "port 80 sticks" in static["why"]
        assert "port 8080 does_not" in static["why"]
        assert "Next: name the port" in static["why"]


def test_a_port_that_did_not_opt_in_keeps_its_static_verdict():
    """An entry for one port must not hide that sessions do not stick on another one."""
    broken = _found(port=8080, static_verdict="does_not")
    plan = affinity_plan(affinity_targets([CART | {"port": 80}]), [_found(port=80), broken])
    assert [(item["entry"]["port"], item["entry"]["live"], item["entry"]["static"]["static_verdict"]) for item in plan] == [
        (80, True, "sticks"),
        (8080, False, "does_not"),
    ]
    assert len(affinity_plan(affinity_targets([CART]), [_found(port=80), broken])) == 1


# -- what is expected of a rule --


@pytest.mark.parametrize(
    ("key", "expected", "fits"),
    [
        (HEADER, HEADER, True),
        (HEADER, {"type": "header", "name": "User-Session"}, True),
        (HEADER, {"name": "user-session"}, True),
        (HEADER, "type=header name=user-session", True),
        (HEADER, {"type": "header", "name": "user-sesion"}, False),
        (HEADER, {"type": "cookie", "name": "user-session"}, False),
        ({"type": "cookie", "name": "Cart"}, {"type": "cookie", "name": "cart"}, False),
        ({"type": "source_ip", "name": None}, {"type": "source_ip"}, True),
        (None, HEADER, False),
    ],
)
def test_a_rule_for_another_key_than_is_expected_does_not_stick(key: Any, expected: Any, fits: bool):
    entry = _entry(CART | {"key": expected, "probe": False}, _found(key=key))
    assert entry["static"]["static_verdict"] == ("sticks" if fits else "does_not")


def test_a_mismatch_names_both_keys():
    static = _entry(CART | {"key": {"type": "cookie", "name": "cart"}}, _found())["static"]
    assert static["why"] == "the rule hashes on header user-session, and cookie cart is expected"
    assert static["backends"] == _found()["backends"]


def test_no_rule_is_a_verdict_where_rules_were_read():
    gone = {"static_verdict": "does_not", "why": "no rule asks for affinity"}
    assert _entry(CART)["static"] == gone
    assert _entry(CART, namespaces=["shop"])["static"] == gone
    assert _entry(CART, namespaces=["other"])["static"] is None
    assert _entry(CART, looked=False)["static"] is None


def test_a_cookie_that_is_learned_needs_no_rule():
    assert _entry(CART | {"key": {"type": "cookie", "name": "cart", "cookie": "learned"}})["static"] is None


# -- what is reported --


def test_what_did_not_opt_in_is_reported_by_configuration():
    plan = affinity_plan([], [_found(), _found("search", 80), _found("search", 81)])
    assert [(item["target"], item["entry"]["live"], item["entry"]["port"]) for item in plan] == [({}, False, None), ({}, False, 80), ({}, False, 81)]
    assert [entry["static"]["static_verdict"] for entry in affinity_entries(plan, [])] == ["sticks"] * 3


def test_outcomes_take_their_places_and_what_was_not_probed_is_an_error():
    """Also of one service's second port when the run ended after the first."""
    targets = affinity_targets([CART | {"port": 80}, CART | {"port": 8080}, {"namespace": "shop", "service": "quiet", "probe": False}])
    plan = affinity_plan(targets, [_found(port=80), _found(port=8080), _found("quiet")])
    checked = [plan[0]["entry"] | {"result": {"verdict": "passed"}}]
    entries = affinity_entries(plan, checked, reason="the API server went away")
    assert [(entry["service"], entry["port"], entry["result"], entry["error"]) for entry in entries] == [
        ("cart", 80, {"verdict": "passed"}, None),
        ("cart", 8080, None, "It was not probed: the API server went away"),
        ("quiet", None, None, None),
    ]


def test_an_annotation_that_was_refused_stays_the_reason():
    plan = affinity_plan(affinity_targets([], [_service("cart", probe="nonsense")]), [])
    assert "must be a path" in affinity_entries(plan, [])[0]["error"]


def test_how_to_opt_in_is_what_opts_in():
    cookie = {"type": "cookie", "name": "cart", "origin": "rule"}
    lines = affinity_how_to_opt_in(affinity_plan([], [_found(key=cookie), _found("search", key={"type": "source_ip", "name": None})]))
    assert lines[1:3] == [
        "kubectl -n shop annotate service cart meshops.istio/probe=/ meshops.istio/probe-key=cookie:cart",
        "kubectl -n shop annotate service search meshops.istio/probe=/ meshops.istio/probe-key=source_ip",
    ]
    assert yaml.safe_load("\n".join(lines[3:])) == {
        "istio_affinity_services": [
            CART | {"key": {"type": "cookie", "name": "cart"}, "path": "/"},
            {"namespace": "shop", "service": "search", "key": {"type": "source_ip"}, "path": "/"},
        ]
    }
    assert affinity_how_to_opt_in(affinity_plan(affinity_targets([CART]), [_found()])) == []


def test_another_port_of_a_service_opts_in_by_the_inventory_with_its_port():
    """An annotation would take the place of the one that opted in the first port."""
    for found in ([_found(), _found(port=8080)], [_found(port=8080)]):
        lines = affinity_how_to_opt_in(affinity_plan(affinity_targets([], [_service("cart", probe="/", probe_port="80")]), found))
        assert [line for line in lines if "kubectl" in line] == []
        expected = CART | {"port": 8080, "key": HEADER, "path": "/"}
        assert yaml.safe_load("\n".join(lines[1:])) == {"istio_affinity_services": [expected]}
        assert "meshops.istio/probe-port" in lines[-1]
        targets = affinity_targets([expected, CART | {"port": 80}])
        assert affinity_how_to_opt_in(affinity_plan(targets, found)) == []


def test_two_ports_of_a_service_opt_in_by_the_inventory():
    lines = affinity_how_to_opt_in(affinity_plan([], [_found(), _found(port=8080)]))
    assert [entry["port"] for entry in yaml.safe_load("\n".join(lines[1:]))["istio_affinity_services"]] == [80, 8080]


def test_it_is_all_plain_data():
    """Older Ansibles hand it on as text."""
    plan = affinity_plan(affinity_targets([CART]), [_found(), _found("search")])
    assert json.loads(json.dumps(plan)) == plan
