# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of all clients: nobody sends before all can, it goes on where more is needed, and stops where a session moved.

The session with a pod is synthetic: it answers each request of curl's configuration with a pod that the test chooses.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._check import make_window, refuse_blank
from ansible_collections.meshops.istio.plugins.module_utils._model import NOWHERE, Backend, CheckError, ClientPod, Key, Membership, Survey, Target
from ansible_collections.meshops.istio.plugins.module_utils._probe import runner
from ansible_collections.meshops.istio.plugins.module_utils._probe.runner import Campaign, probe_all
from ansible_collections.meshops.istio.plugins.module_utils._requests.brake import Brake
from ansible_collections.meshops.istio.plugins.module_utils._requests.curl import Sending
from ansible_collections.meshops.istio.plugins.module_utils._requests.identity import Method
from ansible_collections.meshops.istio.plugins.module_utils._requests.observation import FIELD
from ansible_collections.meshops.istio.plugins.module_utils._requests.plan import PROFILES, make_plan
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.stages import further_plans
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window

KEY = Key("header", "user")
PODS = ("cart-1", "cart-2", "cart-3")
BACKENDS = tuple(Backend(pod, pod, f"10.0.0.{number}:80", None, None, True) for number, pod in enumerate(PODS))
MEMBERSHIP = Membership({"slice": 1}, BACKENDS, 100.0)
SETTINGS: Any = SimpleNamespace(method=Method("auto", ("X-Pod",)), max_flip_rate=0.02, sending=Sending())
Chooser = Callable[["str | None"], str]


def by_key(value: str | None) -> str:
    return PODS[sum(value.encode()) % 3] if value else random.choice(PODS)


def at_random(_value: str | None) -> str:
    return random.choice(PODS)


class Session:
    """In the place of a session with a pod."""

    sent = 0

    def __init__(self, client: ClientPod, choose: Chooser) -> None:
        if client.pod == "broken":
            raise CheckError("no_shell", "There is no sh.")
        self.curl_line, self.nonce, self.exec = "curl 8.16.0", "nonce", SimpleNamespace(where="here")
        self._choose = choose

    def __exit__(self, *_details: object) -> None:
        pass

    def view(self, _target: Target) -> tuple[None, dict[str, bytes]]:
        return None, {}

    def command(self, _kind: str, body: bytes, _wanted: str = "") -> Iterator[bytes]:
        for stanza in body.decode().split("\nnext\n"):
            start, index = re.search(r'write-out = "(?:\\n)?(.*?)R\|(\d+)', stanza).groups()
            value = re.search(r'header = "user: (.*)"', stanza)
            Session.sent += 1
            yield FIELD.join([f"{start}R|{index}", "200", "0", "0.001", "", "", self._choose(value and value.group(1)), "."]).encode()

    def killed(self) -> list[int]:
        return []

    def end(self) -> None:
        pass


def run(monkeypatch: pytest.MonkeyPatch, choose: Chooser, clients: tuple[str, ...] = ("one",), stops: bool = False) -> tuple[Window, list[ClientRun]]:
    monkeypatch.setattr(runner, "PodSession", lambda _configuration, client, _timeout: Session(client, choose))
    Session.sent = 0
    target = Target("shop", "cart", 80, None, "cart")
    pods = tuple(ClientPod("shop", name, name, None, None, "curl", True) for name in clients)
    survey = Survey(target, pods, MEMBERSHIP, ())

    def so_far(runs: list[ClientRun]) -> Window:
        return make_window(SETTINGS, survey, MEMBERSHIP, (), runs)

    campaign = Campaign(
        target,
        SETTINGS.sending,
        SETTINGS.method,
        time.monotonic() + 60,
        None,
        Brake(None, 100),
        configuration=None,
        read_membership=lambda: MEMBERSHIP,
        read_log=lambda _client, _since: "",
        read_gateways=lambda: ((None,), NOWHERE),
        further=lambda runs: further_plans(so_far(runs), judge(so_far(runs))),
        has_moved=(lambda one: judge(so_far([one])).verdict == "failed") if stops else None,
    )
    plan = make_plan(KEY, None, None, None, PROFILES["default"], 3, 1)
    runs = probe_all(survey, dict.fromkeys(pods, plan), campaign)
    return so_far(runs), runs


@pytest.mark.parametrize("stops", [False, True])
def test_a_mesh_that_sticks_is_proved_with_one_round_more_if_nothing_is_computed(monkeypatch: pytest.MonkeyPatch, stops: bool) -> None:
    seen, runs = run(monkeypatch, by_key, stops=stops)
    assert judge(seen).verdict == "passed"
    assert (runs[0].tally.sent, runs[0].plan.total, Session.sent) == (210, 210, 210)
    assert [list(segment) for segment in runs[0].segments] == [[0], [1], [2], [3], [4]]
    assert len(runs[0].checkpoints) == 6


def test_without_a_rule_it_stops_at_the_first_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    for _time in range(20):
        seen, runs = run(monkeypatch, at_random, stops=True)
        assert judge(seen).verdict == "failed"
        assert runs[0].moved
        assert runs[0].failure is None
        assert runs[0].tally.sent == Session.sent <= 80


def test_without_a_rule_the_whole_plan_is_sent_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, runs = run(monkeypatch, at_random)
    assert (judge(seen).verdict, runs[0].tally.sent, runs[0].moved) == ("failed", 171, False)


def test_if_one_client_cannot_start_none_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="There is no sh"):
        run(monkeypatch, by_key, clients=("one", "broken", "two"))
    assert Session.sent == 0


def test_each_client_identifies_in_its_own_way() -> None:
    """One by a header, and one, whose Envoy could be read, by counters: an address is no name that the header has."""
    plan = make_plan(KEY, ["a"], None, 2, PROFILES["default"], 3, 1)
    runs = []
    for name, method, identity in (("one", "header", f"{FIELD}".join(["cart-2", ""])), ("two", "upstream", "10.0.0.1:80")):
        part = ClientRun(
            ClientPod("shop", name, name, None, None, "curl", True), None, plan, runner.Tally([runner.Trace() for _session in plan.sessions]), method
        )
        part.tally.identities.add(identity)
        part.tally.sessions[0].add(0, identity)
        runs.append(part)
    seen = make_window(SETTINGS, Survey(Target("shop", "cart", 80, None, "cart"), (), MEMBERSHIP, ()), MEMBERSHIP, (), runs)
    assert seen.identification.by == "header X-Pod, upstream"
    assert [dict(entry.traces[0].counts) for entry in seen.client_windows] == [{"cart-2": 1}, {"cart-2": 1}]
    assert [entry.identified_by for entry in seen.client_windows] == ["header", "upstream"]


@pytest.mark.parametrize(
    ("params", "option"),
    [({"service": ""}, "service"), ({"namespace": " "}, "namespace"), ({"client": {"pod": ""}}, "client.pod"), ({"via": {"host": ""}}, "via.host")],
)
def test_an_empty_name_is_refused_in_a_sentence(params: dict[str, Any], option: str) -> None:
    given: dict[str, Any] = {"namespace": "shop", "service": "cart", "path": "/", "identify_pattern": None, "client": None, "via": None}
    refuse_blank(given)
    with pytest.raises(CheckError, match=rf"Option {option} is empty\. Next: ") as refused:
        refuse_blank(given | params)
    assert refused.value.code == "bad_option"
