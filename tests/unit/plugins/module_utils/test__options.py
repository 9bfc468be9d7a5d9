# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that make no sense are refused before anything is touched; the others become settings."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._model import CheckError, ClientChoice, Key, Scope
from ansible_collections.meshops.istio.plugins.module_utils._options import LIMITS, client_choice, given_key, read_settings, read_wanted
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import StopOn
from ansible_collections.meshops.istio.plugins.module_utils._verdict.what_if import Scenario

PARAMS: dict[str, Any] = {
    "namespace": "sample",
    "service": "shop",
    "port": None,
    "client": None,
    "key": None,
    "method": "GET",
    "headers": None,
    "profile": "default",
    "sessions": None,
    "session_ids": None,
    "requests": None,
    "concurrency": 10,
    "rate": None,
    "max_requests": None,
    "stop_on": None,
    "timeout": 300,
    "connection": "new",
    "identify": "auto",
    "identify_pattern": None,
    "identify_header": ["X-Pod-Name"],
    "max_flip_rate": None,
    "attempts": 1,
    "settle": 10,
    "seed": None,
    "max_sessions_returned": 200,
}


def key(**option: Any) -> dict[str, Any]:
    return {"type": "header", "name": None, "cookie": "given", **option}


def test_defaults_become_settings() -> None:
    settings = read_settings({**PARAMS, "headers": {"X-Env": 1}, "seed": 0})
    assert (settings.key, settings.seed, settings.max_flip_rate, settings.stop_on) == (None, 0, 0.02, None)
    assert settings.choice == ClientChoice("sample")
    assert (settings.sending.headers, settings.sending.keepalive, settings.sending.identity_headers) == ((("X-Env", "1"),), False, ("X-Pod-Name",))


def test_a_quick_run_has_a_bound_that_it_can_reach() -> None:
    assert read_settings({**PARAMS, "profile": "quick"}).max_flip_rate == 0.08
    assert read_settings({**PARAMS, "profile": "quick", "max_flip_rate": 0.5}).max_flip_rate == 0.5


def test_a_seed_is_drawn_where_none_is_given() -> None:
    assert len({read_settings(PARAMS).seed for _run in range(5)}) > 1


@pytest.mark.parametrize("option", LIMITS)
def test_values_beyond_what_makes_sense_are_refused(option: str) -> None:
    least, most = LIMITS[option]
    for value in (least, most):
        read_settings({**PARAMS, option: value})
    for value in (least - 1, most + 1):
        with pytest.raises(CheckError, match=f"Option {option} is {value}; it must be between {least} and {most}") as caught:
            read_settings({**PARAMS, option: value})
        assert caught.value.code == "bad_option"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_ids": []}, "session_ids is an empty list"),
        ({"identify_header": []}, "identify_header is an empty list"),
        ({"identify": "body"}, "identify=body and identify_pattern go together"),
        ({"identify_pattern": "x"}, "identify=body and identify_pattern go together"),
        ({"identify": "body", "identify_pattern": "x", "method": "HEAD"}, "use another method"),
        ({"identify": "body", "identify_pattern": "("}, "identify_pattern is not a valid regular expression"),
        ({"identify": "upstream", "key": key(type="cookie", name="user", cookie="learned")}, "key.cookie=learned and identify=upstream exclude each other"),
        ({"stop_on": {"statuses": [429, 42], "server_errors": None}}, "stop_on.statuses contains 42"),
        ({"stop_on": {"statuses": [], "server_errors": 1.5}}, "stop_on.server_errors is 1.5"),
        ({"client": {"max": 0}}, "client.max is 0"),
        ({"key": key(type="source_ip", name="x")}, "key.name does not apply to key.type source_ip"),
        ({"key": key()}, "key.name is missing; key.type header needs the name of the header"),
        ({"key": key(name="x", cookie="learned")}, "key.cookie applies only to key.type cookie"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckError) as caught:
        read_settings({**PARAMS, **options})
    assert message in caught.value.msg
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (None, None),
        (key(name="user"), Key("header", "user")),
        (key(type="source_ip"), Key("source_ip", None)),
        (key(type="cookie", name="user", cookie="browser"), Key("cookie", "user", cookie="browser")),
    ],
)
def test_the_key_of_the_option(option: dict[str, Any] | None, expected: Key | None) -> None:
    assert given_key({"key": option}) == expected


def test_what_stops_a_run() -> None:
    option = {"statuses": [429, 503], "server_errors": 0.02}
    assert read_settings({**PARAMS, "stop_on": option}).stop_on == StopOn(frozenset({429, 503}), 0.02)


def test_how_the_pod_is_known() -> None:
    method = read_settings({**PARAMS, "identify": "body", "identify_pattern": r"pod-\d"}).method
    assert (method.name, method.headers, method.pattern and method.pattern.pattern) == ("body", ("X-Pod-Name",), r"pod-\d")


def test_clients_are_in_the_services_namespace_unless_said() -> None:
    option = {"namespace": "probes", "pod": "probe-0", "selector": "app=probe", "container": "curl", "max": 2}
    assert client_choice({"namespace": "sample", "client": option}) == ClientChoice("probes", "probe-0", "app=probe", "curl", 2)


def test_an_inspection_of_all_namespaces_has_no_namespace_for_clients() -> None:
    wanted = read_wanted({"namespace": ["a", "b", "a"], "session_ids": ["x", "y", "x"], "what_if": {"drain_node": "n1"}})
    assert (wanted.scope, wanted.choice.namespace, wanted.sessions) == (Scope(("a", "b")), "", ("x", "y"))
    assert wanted.scenario == Scenario(drain_node="n1")
    assert read_wanted({"namespace": ["a"], "service": "shop", "port": 80}).scope == Scope(("a",), "shop", 80)
    assert read_wanted({"namespace": ["a"]}).choice.namespace == "a"
    assert read_wanted({}).scope == Scope(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"namespace": ["a", ""]}, "Option namespace contains an empty name. Next: give a value, or leave the option out."),
        ({"namespace": ["a", "b"], "client": {"pod": "probe-0"}}, "Option client.pod needs client.namespace"),
        ({"what_if": {}}, "Option what_if is empty"),
    ],
)
def test_an_inspection_of_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckError) as caught:
        read_wanted(options)
    assert message in caught.value.msg
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Client-Secret"])
def test_a_secret_header_goes_to_a_named_pod_only(name: str) -> None:
    """A tenant's pod with the label of a client received the operator's credentials."""
    client = {"pod": None, "selector": "meshops.istio/probe=true", "container": None, "namespace": None, "max": None}
    with pytest.raises(CheckError, match=f"Option headers: {name} is a secret.*name a client pod in client.pod") as caught:
        read_settings({**PARAMS, "headers": {name: "x"}, "client": client})
    assert caught.value.code == "bad_option"
    assert read_settings({**PARAMS, "headers": {name: "x"}, "client": client | {"pod": "probe-0"}}).sending.headers == ((name, "x"),)
    assert read_settings({**PARAMS, "headers": {"X-Env": "prod"}, "client": client}).choice.pod is None
