# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict, rule by rule, on windows whose truth is known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.meshops.istio.plugins.module_utils._membership import is_settled
from ansible_collections.meshops.istio.plugins.module_utils._model import Backend, CheckError, Checkpoint, Key, Membership
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import Run, Trace
from ansible_collections.meshops.istio.plugins.module_utils._verdict.bounds import upper_bound
from ansible_collections.meshops.istio.plugins.module_utils._verdict.controls import unused_chance
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.moves import Changes, is_explained
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Verdict, Window
from simulation import Balancer, Truth, at_random, constant, flipping, ring, trace_of, weighted, window

PODS = tuple(f"pod-{number}" for number in range(12))


def verdict_on(truth: Truth) -> Verdict:
    return judge(window(truth))


@settings(max_examples=60)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_a_rule_in_force_passes(pods: int, seed: int) -> None:
    found = verdict_on(Truth(history=((0, PODS[:pods]),), seed=seed))
    assert (found.verdict, found.reasons) == ("passed", ())
    assert found.flip_rate_95 < 0.02


@settings(max_examples=60)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_no_rule_fails(pods: int, seed: int) -> None:
    found = verdict_on(Truth(balancer=at_random, history=((0, PODS[:pods]),), seed=seed))
    assert found.verdict == "failed"
    assert "landed on" in found.reasons[0]
    assert found.false_pass < 1e-6


@settings(max_examples=60)
@given(st.integers(0, 2**31))
def test_a_weighted_split_of_ninety_to_ten_fails(seed: int) -> None:
    assert verdict_on(Truth(balancer=weighted(0.1), rounds=20, seed=seed)).verdict == "failed"


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.05, 0.5))
def test_a_part_of_the_requests_that_goes_anywhere_fails(seed: int, rate: float) -> None:
    assert verdict_on(Truth(balancer=flipping(rate), rounds=20, seed=seed)).verdict == "failed"


def test_everything_on_one_pod_is_not_proven() -> None:
    found = verdict_on(Truth(balancer=constant))
    assert found.verdict == "not_proven"
    assert found.controls["spread"].state == "failed"
    assert found.controls["keyless"].state == "failed"


def test_a_locality_split_is_never_passed() -> None:
    one = Truth(history=((0, PODS[:4]),), seen_by={0: PODS[:2]})
    assert verdict_on(one).verdict == "not_proven"
    both = replace(one, clients=2, seen_by={0: PODS[:2], 1: PODS[2:4]})
    assert verdict_on(both).verdict == "failed"


def test_one_backend_is_inconclusive() -> None:
    found = verdict_on(Truth(history=((0, ("only",)),)))
    assert found.verdict == "inconclusive"
    assert "fewer than two" in found.reasons[0]
    assert not found.churn_only


@settings(max_examples=80)
@given(st.integers(1, 19), st.integers(0, 2**31), st.sampled_from(["scale up", "scale down", "replace"]))
def test_moves_with_a_change_of_the_backends_are_never_passed_nor_failed(at: int, seed: int, what: str) -> None:
    after = {"scale up": PODS[:4], "scale down": PODS[:2], "replace": (*PODS[:2], PODS[5])}[what]
    found = verdict_on(Truth(history=((0, PODS[:3]), (at, after)), rounds=20, seed=seed))
    assert found.verdict == "inconclusive"
    assert found.churn_only
    assert all(fate.explained for fate in found.fates if fate.moved)


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_a_rollout_moves_sessions_back_and_forth_and_is_not_failed(seed: int) -> None:
    steps = [PODS[:3], PODS[:4], (*PODS[1:4],), (*PODS[1:5],), (*PODS[2:5],), (*PODS[2:6],), (*PODS[3:6],)]
    history = tuple((3 * number, hosts) for number, hosts in enumerate(steps))
    assert verdict_on(Truth(history=history, rounds=24, seed=seed)).verdict == "inconclusive"


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_no_rule_under_churn_is_failed_all_the_same(seed: int) -> None:
    chance = random.Random(seed)
    history = tuple((number * 4, tuple(chance.sample(PODS[:6], 3))) for number in range(5))
    assert verdict_on(Truth(balancer=at_random, history=history, seed=seed)).verdict == "failed"


def test_a_pod_that_came_and_went_between_two_looks_is_seen() -> None:
    truth = Truth(history=((0, PODS[:3]), (1, PODS[:4]), (2, PODS[:3])), rounds=20)
    found = verdict_on(truth)
    assert found.verdict == "inconclusive"
    assert found.changed
    assert found.events == ("endpoints changed and changed back",)


def test_a_rule_that_changed_is_named() -> None:
    found = verdict_on(Truth(rules_changed=True))
    assert found.verdict == "inconclusive"
    assert found.reasons == ("DestinationRule sample/nginx-destinationrule changed",)
    assert not found.churn_only


@pytest.mark.parametrize(("lost", "verdict"), [(0.0, "passed"), (0.001, "passed"), (0.05, "inconclusive"), (1.0, "inconclusive")])
def test_lost_answers_are_counted_as_moves_that_might_have_been(lost: float, verdict: str) -> None:
    found = verdict_on(Truth(lost=lost, seed=3))
    assert found.verdict == verdict


def test_lost_answers_do_not_excuse_a_move() -> None:
    assert verdict_on(Truth(balancer=at_random, lost=0.3)).verdict == "failed"


def test_without_the_keyless_control_the_prediction_is_the_proof() -> None:
    found = verdict_on(Truth(keyless=False))
    assert found.verdict == "passed"
    assert found.controls["keyless"].state == "not_applicable"
    assert (found.prediction.available, found.prediction.matched, found.prediction.total) == (True, 39, 39)


def unseen(seen: Window) -> Window:
    """The same window where no Envoy could be read."""
    entry = seen.client_windows[0]
    blind = tuple(replace(checkpoint, view=None) for checkpoint in entry.checkpoints)
    return replace(seen, client_windows=(replace(entry, checkpoints=blind),))


def test_without_either_proof_nothing_is_proven() -> None:
    found = judge(unseen(window(Truth(keyless=False, rounds=20))))
    assert found.verdict == "not_proven"
    assert "nothing proves that sessions stick because of the key" in found.reasons[0]


def test_without_envoy_the_keyless_control_is_the_proof() -> None:
    found = judge(unseen(window(Truth(rounds=20))))
    assert found.verdict == "passed"
    assert found.prediction.reason == "the client's Envoy could not be read"


# Sticky, spread, and another mapping than the ring's.
by_name = Balancer(lambda sessions, hosts, _chance: [hosts[sum(session.encode()) % len(hosts)] for session in sessions])


def test_a_prediction_that_does_not_fit_is_not_a_failure() -> None:
    found = verdict_on(Truth(balancer=by_name))
    assert found.verdict == "passed"
    assert not found.prediction.available
    assert "landed elsewhere than computed" in found.prediction.reason


def test_a_run_that_broke_off_is_inconclusive_with_its_reason() -> None:
    seen = window(Truth())
    entry = replace(seen.client_windows[0], failure=CheckError("exec_lost", "The connection broke off."))
    found = judge(replace(seen, client_windows=(entry,)))
    assert found.verdict == "inconclusive"
    assert "The connection broke off." in found.reasons


def test_a_changed_envoy_configuration_is_inconclusive() -> None:
    seen = window(Truth())
    entry = seen.client_windows[0]
    last = entry.checkpoints[-1]
    route = replace(last.view.route, hash_policies=())
    checkpoints = (*entry.checkpoints[:-1], replace(last, view=replace(last.view, route=route)))
    found = judge(replace(seen, client_windows=(replace(entry, checkpoints=checkpoints),)))
    assert found.verdict == "inconclusive"
    assert "route or cluster in the Envoy of sample/test-0 changed" in found.reasons


def test_a_push_that_changes_nothing_but_versions_does_not_matter() -> None:
    seen = window(Truth())
    entry = seen.client_windows[0]
    last = entry.checkpoints[-1]
    route = replace(last.view.route, version="2")
    checkpoints = (*entry.checkpoints[:-1], replace(last, view=replace(last.view, route=route)))
    assert judge(replace(seen, client_windows=(replace(entry, checkpoints=checkpoints),))).verdict == "passed"


def recounted(seen: Window, change: Callable[[int, int], int]) -> Window:
    """The same window with other counters at the last look: C(change) of a host's position and its figure."""
    entry = seen.client_windows[0]
    last = entry.checkpoints[-1]
    hosts = tuple(replace(host, rq_total=change(number, host.rq_total)) for number, host in enumerate(last.view.hosts))
    checkpoints = (*entry.checkpoints[:-1], replace(last, view=replace(last.view, hosts=hosts)))
    return replace(seen, client_windows=(replace(entry, checkpoints=checkpoints),))


def test_counters_that_contradict_the_answers_are_inconclusive() -> None:
    found = judge(recounted(window(Truth()), lambda number, total: total + (5, -5, 0)[number]))
    assert found.verdict == "inconclusive"
    assert "the evidence conflicts" in found.reasons[0]


def test_counters_that_did_not_move_show_that_envoy_was_not_in_the_path() -> None:
    found = judge(recounted(window(Truth()), lambda _number, _total: 0))
    assert found.verdict == "inconclusive"
    assert "sent none of 171 answered requests to the endpoints" in found.reasons[0]


def test_counters_with_other_traffic_in_them_say_nothing() -> None:
    assert judge(recounted(window(Truth()), lambda number, total: total + 100 * number)).verdict == "passed"


def test_keepalive_never_decides() -> None:
    found = judge(replace(window(Truth()), keepalive=True))
    assert found.verdict == "not_proven"


def trace(*pods: str) -> Trace:
    found = Trace()
    for number, pod in enumerate(pods):
        found.add(number, pod)
    return found


@pytest.mark.parametrize(
    ("pods", "counts", "explained"),
    # counts: before the first look, in the two segments, after the last look
    [
        ("aabb", (0, 0, 1, 0), True),
        ("aabb", (0, 1, 0, 0), True),
        ("aabb", (1, 0, 0, 0), True),
        ("aabb", (0, 0, 0, 1), False),
        ("aabb", (0, 0, 0, 0), False),
        ("abab", (0, 1, 0, 0), False),
        ("abab", (1, 1, 1, 0), True),
        ("aaab", (0, 0, 1, 0), True),
        ("abbb", (0, 0, 1, 0), False),
    ],
)
def test_each_move_needs_a_change_of_its_own_at_its_time(pods: str, counts: tuple[int, ...], explained: bool) -> None:
    assert is_explained(trace(*pods), [range(2), range(2, 4)], Changes(counts, (0.0, 1.0, 2.0))) is explained


@pytest.mark.parametrize(("seconds", "explained"), [(0.3, True), (4.0, True), (6.0, False)])
def test_a_change_explains_what_comes_shortly_after_it(seconds: float, explained: bool) -> None:
    """The change is in the first segment, the move in the third."""
    looks = (0.0, seconds, 2 * seconds, 3 * seconds)
    assert is_explained(trace(*"aaaaab"), [range(2), range(2, 4), range(4, 6)], Changes((0, 1, 0, 0, 0), looks)) is explained


def test_more_runs_than_are_kept_are_not_explained() -> None:
    assert not is_explained(Trace([Run(0, 1, "a"), Run(2, 3, "b")], overflow=True), [range(4)], Changes((0, 100, 0), (0.0, 1.0)))


@pytest.mark.parametrize(
    ("events", "trials", "bound"),
    # R: qbeta(0.95, events + 1, trials - events); the first two are 1 - 0.05^(1/n) of the domain's table
    [(0, 380, 0.00785), (0, 950, 0.00315), (5, 380, 0.02746), (100, 1000, 0.11700), (380, 380, 1.0)],
)
def test_the_bound_is_clopper_and_pearsons(events: int, trials: int, bound: float) -> None:
    assert upper_bound(events, trials) == pytest.approx(bound, rel=2e-3)


def test_the_chance_of_an_unused_backend() -> None:
    assert unused_chance(3, 0, 20) == 1.0
    assert unused_chance(3, 1, 36) < 1e-4
    assert unused_chance(10, 1, 20) > 0.5


def test_the_simulated_ring_is_a_ring() -> None:
    """Guards the simulation itself: moves on scale-up as measured for Envoy's ring, some between pods that stayed."""
    sessions, chance = tuple(f"sid-{number}" for number in range(2000)), random.Random(1)
    before, after = (ring.keyed(sessions, PODS[:pods], chance) for pods in (3, 4))
    moved = sum(old != new for old, new in zip(before, after, strict=True)) / len(sessions)
    assert 0.25 < moved < 0.45


@given(st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=30))
def test_the_simulated_traces_are_what_answers_one_by_one_make(pods: list[str | None]) -> None:
    """Guards the simulation itself."""
    one_by_one = Trace()
    for number, pod in enumerate(pods):
        if pod is not None:
            one_by_one.add(number, pod)
    assert trace_of(pods) == one_by_one


# What follows was found by the simulator: windows of a rule in force in which changes from before the first look reached
# Envoy during the first segment, when nothing counted them any more.


@pytest.mark.parametrize("flap", [(-5, -4, -3), (-3, -2, -1), (-2, -1, 0)])
@pytest.mark.parametrize("pace", [0.05, 0.2])
def test_changes_shortly_before_the_first_look_do_not_fail_a_healthy_mesh(flap: tuple[int, ...], pace: float) -> None:
    steps = (PODS[:4], (*PODS[:3],), (*PODS[1:3],), (*PODS[1:4],))
    history = tuple(zip((-1_000_000, *flap), steps, strict=True))
    for seed in range(10):
        found = verdict_on(Truth(history=history, lag=5, pace=pace, seed=seed))
        assert found.verdict in ("passed", "inconclusive"), found.reasons


@pytest.mark.parametrize(
    ("age", "settled"),
    [(None, True), (60.0, True), (5.0, True), (3.0, False), (0.0, False)],
)
def test_where_envoy_does_not_agree_a_recent_change_is_waited_for(age: float | None, settled: bool) -> None:
    look = window(Truth(seen_by={0: ("a", "b")})).client_windows[0].checkpoints[0]
    assert is_settled(replace(look, membership=replace(look.membership, age=age))) is settled


@pytest.mark.parametrize(("age", "settled"), [(3.0, True), (2.0, True), (1.0, False), (-1.0, False)])
def test_where_envoy_agrees_a_change_has_arrived_after_two_seconds(age: float, settled: bool) -> None:
    look = window(Truth()).client_windows[0].checkpoints[0]
    assert is_settled(replace(look, membership=replace(look.membership, age=age))) is settled


def test_a_change_after_the_last_look_explains_a_move_in_a_run_that_broke_off() -> None:
    seen = window(Truth(history=((0, PODS[:3]), (12, PODS[:4])), rounds=20))
    entry = seen.client_windows[0]
    cut = replace(entry, checkpoints=entry.checkpoints[:3], failure=CheckError("exec_lost", "The connection broke off."))
    found = judge(replace(seen, client_windows=(cut,)))
    assert found.verdict == "inconclusive", found.reasons


# Where Envoy reads no header, each client is one session by its own address, and the two of these land on two pods.
OWN = Truth(key=Key("source_ip", None, own=True), keyless=False, clients=2, sessions=20)


def test_a_client_whose_own_address_is_hashed_is_compared_with_no_other() -> None:
    found = verdict_on(OWN)
    assert (found.verdict, found.reasons) == ("passed", ())
    assert {fate.id: (len(fate.pods), fate.moved) for fate in found.fates} == {"10.9.0.1": (1, False), "10.9.0.2": (1, False)}
    assert len({pod for fate in found.fates for pod in fate.pods}) == 2
    assert (found.prediction.matched, found.prediction.total) == (2, 2)


def test_a_client_whose_own_address_is_not_hashed_fails() -> None:
    found = verdict_on(replace(OWN, balancer=at_random, rounds=3))
    assert found.verdict == "failed"
    assert "session 10.9.0." in found.reasons[0]


def test_a_client_that_stays_where_its_address_does_not_lead_proves_nothing() -> None:
    found = verdict_on(replace(OWN, balancer=Balancer(lambda sessions, hosts, _chance: [hosts[0]] * len(sessions))))
    assert found.verdict == "not_proven"
    assert not found.prediction.available


def _gateway(pods: tuple[str, ...], generation: int) -> Membership:
    return Membership({"gateway": generation}, tuple(Backend(pod, f"uid-{pod}", f"{pod}:80", None, None, True) for pod in pods), 100.0)


def _through(seen: Window, at: Callable[[int], Membership]) -> Window:
    """The window through a gateway, whose endpoints are given for each look."""
    entry = seen.client_windows[0]
    looks = tuple(replace(look, gateway=at(number)) for number, look in enumerate(entry.checkpoints))
    return replace(seen, via="gateway.istio-ingress", client_windows=(replace(entry, checkpoints=looks),))


def _turning(turn: int) -> Window:
    """A window in which every session moves once to a neighbour, in one round, as by a gateway's pod with another configuration."""
    rounds = itertools.count()

    def balance(sessions: tuple[str, ...], hosts: tuple[str, ...], chance: random.Random) -> list[str]:
        pods = list(ring.keyed(sessions, hosts, chance))
        return pods if next(rounds) < turn else [hosts[hosts.index(pod) - 1] for pod in pods]

    return window(Truth(balancer=Balancer(balance), rounds=20))


def test_a_move_at_which_a_pod_of_the_gateway_was_replaced_is_explained() -> None:
    found = judge(_through(_turning(10), lambda number: _gateway(("old",), 1) if number < 2 else _gateway(("new",), 2)))
    assert found.verdict == "inconclusive", found.reasons
    assert "each with a change of the backends or of the gateway's pods" in found.reasons[0]
    assert found.reasons[1:] == ("the set of pods of gateway gateway.istio-ingress changed during the measurement",)
    assert found.events == ("pod new of gateway gateway.istio-ingress was added", "pod old of gateway gateway.istio-ingress was removed")
    assert found.churn_only


def test_a_pod_of_the_gateway_that_was_away_for_a_moment_shows() -> None:
    found = judge(_through(window(Truth()), lambda number: _gateway(("one",), 1 if number < 2 else 3)))
    assert found.verdict == "inconclusive"
    assert found.events == ("the endpoints of gateway gateway.istio-ingress changed and changed back",)


def test_a_gateway_that_stays_explains_nothing() -> None:
    assert judge(_through(_turning(10), lambda _number: _gateway(("one", "two"), 1))).verdict == "failed"


def test_a_gateway_whose_pods_come_and_go_does_not_excuse_that_no_rule_is_there() -> None:
    assert judge(_through(window(Truth(balancer=at_random, rounds=20)), lambda number: _gateway((f"pod-{number}",), number))).verdict == "failed"


@pytest.mark.parametrize(("age", "settled"), [(None, True), (5.0, True), (4.0, False)])
def test_a_pod_of_the_gateway_that_was_just_replaced_is_waited_for(age: float | None, settled: bool) -> None:
    look: Checkpoint = window(Truth()).client_windows[0].checkpoints[0]
    assert is_settled(replace(look, gateway=replace(_gateway(("one",), 1), age=age))) is settled


def _unbelieved() -> Window:
    """Two clients of which each met one pod, whatever source its requests named, and not the same one."""
    truth = Truth(key=Key("source_ip", None), keyless=False, sessions=20)
    first, second = (window(replace(truth, balancer=Balancer(lambda s, hosts, _chance, pod=pod: [hosts[pod]] * len(s)))) for pod in (0, 1))
    other = replace(second.client_windows[0], client=replace(second.client_windows[0].client, pod="test-1", uid="uid-1"))
    return replace(first, client_windows=(first.client_windows[0], other), identification=replace(first.identification, pods={pod: pod for pod in "abc"}))


def test_a_gateway_that_believes_no_source_address_does_not_make_sessions_move() -> None:
    found = judge(replace(_unbelieved(), via="gateway.istio-ingress"))
    assert found.verdict == "not_proven"
    assert "gateway gateway.istio-ingress may use the connection's address instead" in found.reasons[-1]
    assert not any(fate.moved for fate in found.fates)


def test_sidecars_believe_them_so_sources_that_meet_two_pods_have_moved() -> None:
    assert judge(_unbelieved()).verdict == "failed"
