# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules return: the same keys whatever happened, and a message that says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ansible_collections.meshops.istio.plugins.module_utils._check import below_cap, fails_task
from ansible_collections.meshops.istio.plugins.module_utils._model import (
    CheckError,
    EvidenceItem,
    Finding,
    Fix,
    JsonDict,
    Key,
    ProxyView,
    Survey,
    Target,
)
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun
from ansible_collections.meshops.istio.plugins.module_utils._result import (
    attempt_result,
    empty_result,
    error_result,
    finding_result,
    first_cause,
    full_result,
    halves,
    persistence,
    planned_result,
    returned,
)
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import SessionFate, Window
from simulation import CLUSTER, KEY, ROUTE, Truth, at_random, window

TARGET = Target("sample", "nginx-service", 80, "http", "nginx-service")
FINDING = Finding("C10", "error", "No rule", (EvidenceItem("Service a/b", "field", "x"),), Fix("command", "kubectl get x"), "https://istio.io")


def survey_of(measured: Window) -> Survey:
    clients = tuple(entry.client for entry in measured.client_windows)
    return Survey(TARGET, clients, measured.before, measured.rules_before, {"kubernetes": "v1.35.0"})


def result_of(measured: Window, failure: CheckError | None = None, findings: tuple[Finding, ...] = (), most: int = 200) -> JsonDict:
    runs = [
        ClientRun(entry.client, "8.16.0", entry.plan, entry.tally, checkpoints=list(entry.checkpoints), failure=failure) for entry in measured.client_windows
    ]
    return full_result(survey_of(measured), measured, runs, judge(measured), 7, most, 1.23456, findings)


def test_the_keys_are_the_same_whatever_happened() -> None:
    measured = window(Truth())
    planned = planned_result(survey_of(measured), KEY, 171, 7)
    results = [result_of(measured), planned, error_result(CheckError("no_service", "There is none.")), empty_result()]
    assert len({tuple(result) for result in results}) == 1
    assert {tuple(result["requests"]) for result in results} == {("planned", "sent", "answered", "identified", "failed", "by_status", "by_error")}
    assert {tuple(result["versions"]) for result in results} == {("istiod", "proxy", "kubernetes", "curl")}


def test_an_error_is_said_in_the_message() -> None:
    result = error_result(CheckError("no_service", "There is none."), 7)
    assert (result["verdict"], result["msg"], result["seed"]) == ("error", "error: There is none.", 7)
    assert result["error"] == {"code": "no_service", "msg": "There is none."}


def test_check_mode_says_what_would_be_sent() -> None:
    result = planned_result(survey_of(window(Truth())), KEY, 171, 7)
    assert (result["verdict"], result["requests"]["planned"], result["requests"]["sent"]) == (None, 171, 0)
    assert result["msg"].startswith("check mode: 171 requests would go to sample/nginx-service:80 from sample/test-0")


def test_a_passed_check_says_what_it_proved() -> None:
    result = result_of(window(Truth()))
    assert result["verdict"] == "passed"
    assert "sessions stayed on one pod each; at most" in result["msg"]
    assert result["measured"].startswith("Measured: 171 requests from sample/test-0")
    assert result["measured"].endswith("ready backends, 1.2 s.")
    assert (result["elapsed"], result["seed"], result["versions"]["curl"]) == (1.235, 7, "8.16.0")
    assert result["requests"]["sent"] == result["requests"]["identified"] == result["requests"]["planned"]
    assert sum(backend["sessions"] for backend in result["backends"]) == len(result["sessions"])
    assert attempt_result(result) == {"verdict": "passed", "msg": result["msg"], "events": [], "elapsed": 1.235, "sent": result["requests"]["sent"]}


def test_a_failed_check_says_what_to_do() -> None:
    measured = window(Truth(balancer=at_random))
    assert "Next: kubectl -n sample get destinationrules,virtualservices" in result_of(measured)["msg"]
    result = result_of(measured, findings=(FINDING,))
    assert "Cause C10: No rule (Service a/b, field: x). Fix: kubectl get x." in result["msg"]
    assert result["findings"][0]["evidence"] == [{"source": "Service a/b", "field": "field", "value": "x"}]


def test_a_run_that_broke_off_says_why() -> None:
    failure = CheckError("exec_lost", "The connection broke off.")
    assert result_of(window(Truth()), failure)["error"] == {
        "code": "exec_lost",
        "msg": "The connection broke off.",
    }


def test_sessions_that_moved_come_first_where_there_are_too_many() -> None:
    fates = [SessionFate(str(number), {}, {}, number == 3, None) for number in range(5)]
    assert [fate.id for fate in returned(fates, 2)] == ["3", "0"]
    assert returned(fates, 5) == fates
    assert len(result_of(window(Truth()), most=1)["sessions"]) == 1


@pytest.mark.parametrize(
    ("fix", "words"),
    [
        (Fix("yaml", "apiVersion: v1\nkind: DestinationRule\n"), "Fix: apply the DestinationRule in findings[0].fix. "),
        (Fix("command", "one\ntwo"), "Fix: run the command in findings[0].fix. "),
        (Fix("command", "x" * 300), "Fix: run the command in findings[0].fix. "),
        (Fix("manual", "Do this."), "Fix: Do this. "),
    ],
)
def test_a_fix_in_one_line(fix: Fix, words: str) -> None:
    assert first_cause([replace(FINDING, fix=fix)]).endswith(words)
    assert first_cause([]) == ""
    assert finding_result(replace(FINDING, fix=fix))["fix"] == {"kind": fix.kind, "body": fix.body, "checked": None}


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (ProxyView("1.31.0", 1.0, ROUTE, None, ()), "has no cluster for this service"),
        (ProxyView("1.31.0", 1.0, None, CLUSTER, ()), "balances by RING_HASH and has no hash policy for header other on its route"),
        (ProxyView("1.31.0", 1.0, ROUTE, replace(CLUSTER, rule=None), ()), "hashes on header user-session, not on header other (no DestinationRule in force)"),
    ],
)
def test_both_halves_in_words(view: ProxyView, words: str) -> None:
    assert words in halves(view, Key("header", "other"))


def test_a_cluster_that_ignores_the_hash_is_named() -> None:
    view = ProxyView("1.31.0", 1.0, ROUTE, replace(CLUSTER, lb_policy="ROUND_ROBIN", rule=None), ())
    assert halves(view, KEY) == f"balances by ROUND_ROBIN and ignores the hash policy of its route for {KEY} (no DestinationRule in force)"


def test_persistent_sessions_are_told_from_affinity() -> None:
    measured = window(Truth())
    assert persistence(TARGET, measured) == ""
    labelled = replace(TARGET, persistence=("istio.io/persistent-session=cookie",))
    assert "no Envoy that was read has persistent sessions" in persistence(labelled, measured)


@pytest.mark.parametrize(
    ("verdict", "moved", "options", "fails"),
    [
        ("error", False, {}, True),
        ("failed", True, {}, True),
        ("passed", False, {}, False),
        ("inconclusive", False, {}, False),
        ("inconclusive", False, {"fail_on": ["inconclusive"]}, True),
        ("inconclusive", True, {}, True),
        ("inconclusive", True, {"tolerate_explained_moves": True}, False),
        ("inconclusive", True, {"tolerate_explained_moves": True, "fail_on": ["inconclusive"]}, True),
    ],
)
def test_what_fails_the_task(verdict: str, moved: bool, options: JsonDict, fails: bool) -> None:
    assert fails_task({"verdict": verdict}, moved, {"fail_on": [], "tolerate_explained_moves": False, **options}) is fails


def test_the_cap_holds_over_all_attempts() -> None:
    assert below_cap(None, 10**9, [])
    assert below_cap(1000, 500, [{"sent": 500}])
    assert not below_cap(1000, 501, [{"sent": 500}])
    with pytest.raises(CheckError, match=r"501 requests are planned and max_requests is 500\. Next: ") as caught:
        below_cap(500, 501, [])
    assert caught.value.code == "too_many_requests"
