# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a maintenance moves, counted anew by hand and by drawing once more."""

from __future__ import annotations

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._envoy.ring import chooser_of, request_hash
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, ClusterView, JsonDict
from ansible_collections.meshops.istio.plugins.module_utils._verdict.what_if import Balancing, Scenario, no_outcome, outcome, read_scenario

HOSTS = tuple(f"10.244.{number % 2}.{number + 5}:8080" for number in range(4))
BACKENDS = [Backend(f"pod-{number}", "", host, f"node-{number % 2}", None, True) for number, host in enumerate(HOSTS)]
SESSIONS = [f"sid-{number}" for number in range(400)]
HASHES = tuple(request_hash(session) for session in SESSIONS)
RING = ClusterView("any", "EDS", "RING_HASH", "a/b", "7")


def ask(plan: Scenario, cluster: ClusterView = RING) -> JsonDict:
    return outcome(plan, Balancing.of(cluster, HOSTS), BACKENDS, SESSIONS, HASHES)


def place(*hosts: str) -> dict[str, str]:
    choose = chooser_of(RING, hosts)
    return {session: choose(value) for session, value in zip(SESSIONS, HASHES, strict=True)}


@pytest.mark.parametrize(
    "plan", [Scenario(("pod-1", "pod-3")), Scenario(drain_node="node-1"), Scenario(("pod-1",), "node-1"), Scenario(("pod-1", "pod-3"), replicas=2)]
)
def test_what_moves_from_pods_that_go_is_exact(plan: Scenario) -> None:
    now, later = place(*HOSTS), place(HOSTS[0], HOSTS[2])
    told = ask(plan)
    assert told["must_move"] == [session for session in SESSIONS if now[session] in (HOSTS[1], HOSTS[3])]
    assert told["if_not_replaced"] == [session for session in SESSIONS if now[session] != later[session]]
    assert set(told["must_move"]) < set(told["if_not_replaced"])
    assert (told["pods"]["now"], told["pods"]["removed"]) == (4, 2)


def test_with_the_pods_known_the_share_is_exact() -> None:
    told = ask(Scenario(("pod-0",), replicas=3))
    share = round(len(told["if_not_replaced"]) / len(SESSIONS), 4)
    assert told["expected_share"] == {"low": share, "high": share}


def test_a_replacement_moves_at_least_what_must_and_a_new_draw_is_within_the_range() -> None:
    told = ask(Scenario(("pod-0",)))
    now = place(*HOSTS)
    low, high = told["expected_share"]["low"], told["expected_share"]["high"]
    assert len(told["must_move"]) / len(SESSIONS) * 0.6 < low < high < 0.7
    within = 0
    for number in range(50):
        then = place(*HOSTS[1:], f"172.16.3.{number}:8080")
        within += low <= sum(now[session] != then[session] for session in SESSIONS) / len(SESSIONS) <= high
    assert within >= 47


def test_nothing_moves_where_nothing_changes() -> None:
    told = ask(Scenario(replicas=4))
    assert (told["must_move"], told["if_not_replaced"], told["expected_share"]) == ([], [], {"low": 0.0, "high": 0.0})


def test_which_pods_a_scale_down_takes_is_not_guessed() -> None:
    told = ask(Scenario(("pod-0",), replicas=2))
    assert (told["must_move"], told["if_not_replaced"]) == (None, None)
    assert told["reason"] == "which 1 other pods are removed is unknown; name them in remove_pods"
    assert 0.4 < told["expected_share"]["low"] < told["expected_share"]["high"] < 0.8


def test_with_no_pod_left_every_session_moves() -> None:
    told = ask(Scenario(tuple(backend.pod for backend in BACKENDS)))
    assert told["must_move"] == told["if_not_replaced"] == SESSIONS
    assert told["expected_share"] == {"low": 1.0, "high": 1.0}


def test_both_algorithms_are_compared_whichever_is_in_force() -> None:
    # A small table: what is in force is drawn 199 times.
    maglev = ClusterView("any", "EDS", "MAGLEV", None, "1", table_size=1009)
    by_ring, by_table = ask(Scenario(replicas=5)), ask(Scenario(replicas=5), maglev)
    assert by_ring["ring_hash_share"] == pytest.approx(by_table["ring_hash_share"], abs=0.06)
    assert by_ring["maglev_share"] == pytest.approx(by_table["maglev_share"], abs=0.06)
    assert by_ring["maglev_share"] < by_ring["ring_hash_share"]


def test_the_same_question_has_the_same_answer() -> None:
    assert ask(Scenario(replicas=6)) == ask(Scenario(replicas=6))


def test_what_can_not_be_computed_has_the_same_keys() -> None:
    assert no_outcome("why").keys() == ask(Scenario(replicas=4)).keys()


@pytest.mark.parametrize(
    ("option", "words"),
    [({}, "what_if is empty"), ({"remove_pods": []}, "what_if is empty"), ({"replicas": 0}, "what_if.replicas is 0"), ({"replicas": -1}, "at least 1")],
)
def test_a_plan_that_makes_no_sense_is_refused(option: JsonDict, words: str) -> None:
    with pytest.raises(CheckError, match=words) as refused:
        read_scenario(option)
    assert refused.value.code == "bad_option"


def test_no_plan() -> None:
    assert read_scenario(None) is None
    assert read_scenario({"remove_pods": ["a"], "drain_node": None, "replicas": 3}) == Scenario(("a",), None, 3)
