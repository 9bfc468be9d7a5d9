# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where sessions landed the last time."""

from __future__ import annotations

from report_cases import only, probed, recorded, run_of


def test_the_same_backends_and_the_same_pods():
    first = run_of(probed("passed"))
    found = only(run_of(probed("passed"), after=first, hours=1)).continuity
    assert found
    assert (found.state, found.compared, found.kept, found.compared_with) == ("same", 36, 36, "2026-11-24T12:00:00Z")


def test_the_first_run_has_nothing_to_compare_with():
    found = only(run_of(probed("passed"))).continuity
    assert found
    assert (found.state, found.detail) == ("not_available", "the last run has nothing to compare with")
    assert only(run_of(probed("error"))).continuity is None


def test_a_session_on_another_pod():
    now = recorded("passed")
    session = now["sessions"][0]
    before = next(iter(session["pods"]))
    other = next(backend["pod"] for backend in now["backends"] if backend["pod"] != before)
    session["pods"] = {other: 20}
    found = only(run_of(probed(now), after=run_of(probed("passed")), hours=1)).continuity
    assert found
    assert (found.state, found.compared, found.kept) == ("moved", 36, 35)
    assert [(moved.id, moved.before, moved.now) for moved in found.moved] == [(session["id"], before, other)]


def test_other_backends():
    now = recorded("passed")
    now["backends"][0]["uid"] = "another"
    found = only(run_of(probed(now), after=run_of(probed("passed")), hours=1)).continuity
    assert found
    assert found.state == "backends_changed"
    assert found.detail == "the backends changed (1 removed, 1 added); 36 of 36 sessions kept their pod"


def test_other_sessions_and_other_keys():
    now = recorded("passed")
    for session in now["sessions"]:
        session["id"] += "-else"
    found = only(run_of(probed(now), after=run_of(probed("passed")), hours=1)).continuity
    assert found
    assert found.detail == "no session of the last run was sent again"
    for key in ({"type": "source_ip", "name": None, "origin": "rule"}, {"type": "cookie", "name": "c", "origin": "rule"}):
        moving = recorded("passed") | {"key": key, "prediction": {"available": False, "matched": None, "total": None, "reason": "issued"}}
        found = only(run_of(probed(moving), after=run_of(probed(moving)), hours=1)).continuity
        assert found
        assert found.detail == "the values of this key are new in each run"
