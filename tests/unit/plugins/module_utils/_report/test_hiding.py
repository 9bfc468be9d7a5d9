# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""No session ID in the clear where hashes were asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from report_cases import FINDING, SETTINGS, only, probed, recorded, run_of, seen

from ansible_collections.meshops.istio.plugins.module_utils._causes import find_causes, situation_of
from ansible_collections.meshops.istio.plugins.module_utils._model import Facts, JsonDict, Survey, Target
from ansible_collections.meshops.istio.plugins.module_utils._report.as_html import to_html
from ansible_collections.meshops.istio.plugins.module_utils._report.as_json import to_json
from ansible_collections.meshops.istio.plugins.module_utils._report.as_junit import to_junit
from ansible_collections.meshops.istio.plugins.module_utils._report.as_prometheus import to_prometheus
from ansible_collections.meshops.istio.plugins.module_utils._report.as_table import to_table
from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Entry
from ansible_collections.meshops.istio.plugins.module_utils._report.hiding import hasher, hide
from ansible_collections.meshops.istio.plugins.module_utils._requests.tally import ClientRun
from ansible_collections.meshops.istio.plugins.module_utils._result import full_result
from ansible_collections.meshops.istio.plugins.module_utils._verdict.judge import judge
from ansible_collections.meshops.istio.plugins.module_utils._verdict.window import Window
from simulation import Balancer, Truth, at_random, constant, ring, window

HASHED = hasher(b"salt")
FORMATS = (to_json, to_html, to_junit, to_prometheus, lambda report: "\n".join(to_table(report)))


def everything(entry: Entry) -> str:
    report = run_of(hide(entry, HASHED), settings=replace(SETTINGS, hash_session_ids=True))
    return "\n".join(render(report) for render in FORMATS)


def with_tokens(verdict: str) -> dict:
    """A recorded result with IDs that look like tokens, wherever it has them."""
    found = recorded(verdict)
    for number, session in enumerate(found["sessions"]):
        token = f"tok3n.{number}-s3cret"
        found["msg"] = found["msg"].replace(f"session {session['id']} landed", f"session {token} landed")
        session["id"] = token
    return found


@pytest.mark.parametrize("verdict", ["passed", "failed", "not_proven", "inconclusive"])
def test_none_in_any_format(verdict: str):
    found = with_tokens(verdict)
    found["attempts"] = [{"verdict": verdict, "msg": found["msg"], "events": ["session tok3n.1-s3cret moved"], "elapsed": 1.0}]
    found["findings"] = [FINDING | {"evidence": [{"source": "probe", "field": "session", "value": "tok3n.2-s3cret"}]}]
    text = everything(probed(found))
    assert "s3cret" not in text
    assert HASHED("tok3n.1-s3cret") in text


def test_sessions_that_a_check_names_and_does_not_list():
    failed = with_tokens("failed") | {"sessions": []}
    assert "s3cret" not in everything(probed(failed))
    moved = recorded("inconclusive") | {
        "sessions": [],
        "msg": "inconclusive: 4 of 36 sessions moved, each with a change of the backends (tok3n.1-s3cret, tok3n.2-s3cret, tok3n.3-s3cret, …). Measured",
    }
    text = everything(probed(moved))
    assert "s3cret" not in text
    assert HASHED("tok3n.3-s3cret") in text


def judged(truth: Truth, via: str | None = None) -> JsonDict:
    """A result in the words of the judge and the causes, whose IDs have punctuation of the sentences, and that lists no session."""
    clients = []
    for entry in (measured := replace(window(truth), via=via)).client_windows:
        tokens = tuple(f"tok3n.{number}=)\n-s3cret" for number, _session in enumerate(entry.plan.sessions))
        clients.append(replace(entry, plan=replace(entry.plan, sessions=tokens)))
    return result_of(replace(measured, client_windows=tuple(clients)))


def result_of(measured: Window) -> JsonDict:
    target = Target("sample", "nginx-service", 80, "http", "nginx-service")
    survey = Survey(target, tuple(entry.client for entry in measured.client_windows), measured.before, measured.rules_before, {})
    runs = [ClientRun(entry.client, "8.16.0", entry.plan, entry.tally, checkpoints=list(entry.checkpoints)) for entry in measured.client_windows]
    verdict = judge(measured)
    findings = find_causes(situation_of(survey, Facts({}, {}, {}, {}, {}), measured, verdict))
    return full_result(survey, measured, runs, verdict, 7, 0, 1.0, findings)


def threads(sessions: tuple[str, ...], hosts: tuple[str, ...], chance: random.Random) -> Sequence[str]:
    """Two worker threads with different rings (C59)."""
    return [chance.choice(pods) for pods in zip(ring.keyed(sessions, hosts, chance), ring.keyed(sessions, hosts[:3], chance), strict=True)]


@pytest.mark.parametrize(
    ("truth", "via", "words"),
    [
        (Truth(balancer=at_random), None, " landed on "),
        (Truth(history=((0, ("a", "b", "c")), (2, ("a", "b", "d")))), None, "each with a change of the backends ("),
        (Truth(history=((0, ("a", "b", "c")), (2, ("a", "b", "d")))), "gateway.istio-ingress", "a change of the backends or of the gateway's pods ("),
    ],
)
def test_no_sentence_of_the_judge_names_a_session_in_the_clear(truth: Truth, via: str | None, words: str):
    result = judged(truth, via)
    assert words in result["msg"]
    assert "s3cret" in result["msg"]
    text = everything(probed(result))
    assert "s3cret" not in text
    assert words.strip() in text.replace("&#x27;", "'").replace("&#39;", "'")


def test_no_finding_names_a_session_in_the_clear():
    result = result_of(window(Truth(balancer=Balancer(threads), history=((0, ("pod-0", "pod-1", "pod-2", "pod-3")),))))
    fields = [item["field"] for finding in result["findings"] for item in finding["evidence"]]
    assert any("meshops-check-" in field for field in fields), fields
    assert "meshops-check-" not in everything(probed(result))


@pytest.mark.parametrize("truth", [Truth(), Truth(balancer=constant), Truth(lost=0.05), Truth(history=((0, ("a",)),)), Truth(rules_changed=True)])
def test_sentences_without_a_session_stay(truth: Truth):
    result = judged(truth)
    hidden = hide(probed(result), HASHED).result
    assert hidden
    assert (hidden.msg, hidden.controls["keyless"].detail) == (result["msg"], result["controls"]["keyless"]["detail"])


def test_what_only_contains_an_id_stays():
    found = recorded("passed")
    found["sessions"][0]["id"] = "1"
    hidden = hide(probed(found), HASHED).result
    assert hidden
    assert [backend.pod for backend in hidden.backends] == [backend["pod"] for backend in found["backends"]]
    assert hidden.versions.kubernetes == found["versions"]["kubernetes"]


def test_a_look_and_an_error_too():
    entry = seen("sticks", error="session sid-9 landed on nothing")
    assert entry.static
    text = everything(replace(entry, static=replace(entry.static, why="session sid-8 landed on a", sessions=())))
    assert "sid-8" not in text
    assert "sid-9" not in text


def test_the_hash_is_stable_and_salted():
    assert HASHED("a") == hasher(b"salt")("a") != hasher(b"pepper")("a")
    first = run_of(hide(probed("passed"), HASHED))
    found = only(run_of(hide(probed("passed"), HASHED), after=first, hours=1)).continuity
    assert found
    assert found.state == "same"
