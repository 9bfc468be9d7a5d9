# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Green or red: each rule, and what the past adds to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from report_cases import FINDING, NOON, SETTINGS, entry, only, probed, recorded, run_of, seen, waiver

from ansible_collections.meshops.istio.plugins.module_utils._report.assess import Waiver

YESTERDAY = (NOON - timedelta(days=1)).date()


@pytest.mark.parametrize(("verdict", "status"), [("passed", "green"), ("failed", "red"), ("not_proven", "red"), ("error", "red"), ("inconclusive", "green")])
def test_status_of_a_probe(verdict: str, status: str):
    found = only(run_of(probed(verdict)))
    assert (found.mode, found.verdict, found.status) == ("live", verdict, status)
    assert not found.why.startswith(f"{verdict}:")


@pytest.mark.parametrize(("verdict", "status"), [("sticks", "green"), ("does_not", "red"), ("unknown", "green"), ("else", "green")])
def test_status_of_a_look(verdict: str, status: str):
    found = only(run_of(seen(verdict)))
    assert (found.mode, found.status) == ("static", status)
    assert found.verdict == (verdict if verdict != "else" else "unknown")


def test_what_fails_can_be_chosen_but_for_failed():
    mild = replace(SETTINGS, fail_on=())
    assert only(run_of(probed("failed"), settings=mild)).status == "red"
    assert only(run_of(seen("does_not"), settings=mild)).status == "red"
    assert only(run_of(probed("not_proven"), settings=mild)).status == "green"
    assert only(run_of(probed("error"), settings=mild)).status == "green"
    strict = replace(SETTINGS, fail_on=("inconclusive",))
    assert only(run_of(probed("inconclusive"), settings=strict)).status == "red"
    assert only(run_of(seen("unknown"), settings=strict)).status == "red"


def test_where_a_probe_can_not_tell_the_rules_do():
    """Where pods come and go all the time, a rule that is gone would else be noticed when they come to rest."""
    gone, unknown = (seen(verdict).static for verdict in ("does_not", "unknown"))
    assert gone is not None
    told = only(run_of(probed("inconclusive", static=gone)))
    assert (told.mode, told.verdict, told.status) == ("live", "does_not", "red")
    assert told.why.startswith(f"{gone.why}; the probe was inconclusive: ")
    assert only(run_of(probed("passed", static=gone))).verdict == "passed"
    assert only(run_of(probed("inconclusive", static=unknown))).verdict == "inconclusive"
    assert only(run_of(probed("inconclusive", static=gone, single=True))).verdict == "inconclusive"


def test_a_probe_that_is_missing_is_an_error_whatever_the_rules_say():
    found = only(run_of(seen("sticks", live=True)))
    assert (found.verdict, found.status) == ("error", "red")
    assert "there is neither a result nor an error" in found.why
    assert only(run_of(entry("cart"))).verdict == "error"
    assert only(run_of(entry("cart", error="no probe pod"))).why == "no probe pod"
    assert "'splendid'" in only(run_of(probed(recorded("passed") | {"verdict": "splendid"}))).why


def test_check_mode_says_nothing():
    found = only(run_of(probed(recorded("passed") | {"verdict": None, "msg": "check mode: 171 requests would go"})))
    assert (found.verdict, found.status) == ("unknown", "green")


def test_the_run_is_red_if_a_service_or_the_cluster_is():
    assert run_of(probed("passed")).status == "green"
    both = run_of(probed("passed", "a"), probed("failed", "b"))
    assert (both.status, [service.service for service in both.services]) == ("red", ["b", "a"])
    assert (both.summary.red, both.summary.green, both.summary.live) == (1, 1, 2)
    assert run_of(error="connection refused").status == "red"


# -- with the past --


def test_broken_since_is_the_first_red_run_of_the_row():
    first = run_of(probed("passed"))
    second = run_of(probed("failed"), after=first, hours=1)
    third = run_of(probed("error"), after=second, hours=2)
    assert only(first).since is None
    assert (only(second).since, only(third).since) == ("2026-11-24T13:00:00Z", "2026-11-24T13:00:00Z")
    assert only(run_of(probed("passed"), after=third, hours=3)).since is None
    assert [past.status for past in only(third).history] == ["green", "red", "red"]
    assert [past.status for past in third.history] == ["green", "red", "red"]


def test_a_disturbed_window_is_no_alarm_until_it_lasts_too_long():
    report = run_of(probed("passed"))
    for hours in (1, 12, 23):
        report = run_of(probed("inconclusive"), after=report, hours=hours)
        assert only(report).status == "green"
        assert "without a new one it turns red at 2026-11-25T12:00:00Z" in only(report).why
    report = run_of(probed("inconclusive"), after=report, hours=24)
    assert (only(report).status, only(report).since) == ("red", "2026-11-25T12:00:00Z")
    assert only(report).why.startswith("no conclusive verdict for 24 h (maximum 24 h). The last conclusive verdict was passed")
    assert only(run_of(probed("passed"), after=report, hours=25)).status == "green"


def test_without_any_conclusive_verdict_the_first_look_counts():
    first = run_of(probed("inconclusive"))
    assert only(run_of(probed("inconclusive"), after=first, hours=23.9)).status == "green"
    assert "There has been no conclusive verdict yet" in only(run_of(probed("inconclusive"), after=first, hours=24)).why
    assert only(run_of(probed("inconclusive"), settings=replace(SETTINGS, max_age=0))).status == "red"


def test_what_was_broken_stays_red_until_something_shows_that_it_is_mended():
    broken = run_of(probed("failed"))
    still = run_of(probed("inconclusive"), after=broken, hours=1)
    assert (only(still).status, only(still).since) == ("red", "2026-11-24T12:00:00Z")
    assert "no verdict since shows that it is fixed" in only(still).why
    assert only(run_of(probed("passed"), after=still, hours=2)).status == "green"


def test_one_replica_by_intent():
    one = recorded("inconclusive")
    one["backends"] = one["backends"][:1]
    found = only(run_of(probed(one, single=True)))
    assert (found.status, found.verdict) == ("not_applicable", "inconclusive")
    assert only(run_of(probed(one))).status == "green"
    assert only(run_of(probed("inconclusive", single=True))).status == "green"
    assert only(run_of(probed("failed", single=True))).status == "red"
    assert only(run_of(probed(one | {"backends": []}, single=True))).status == "green"


def test_time_with_one_replica_does_not_count_against_it():
    one = recorded("inconclusive")
    one["backends"] = one["backends"][:1]
    report = run_of(probed(one, single=True))
    report = run_of(probed(one, single=True), after=report, hours=100)
    assert only(run_of(probed("inconclusive"), after=report, hours=101)).status == "green"


def test_a_service_that_is_missing_is_told():
    first = run_of(probed("passed", "a"), probed("passed", "b"))
    second = run_of(probed("passed", "a"), after=first, hours=1)
    assert [(gone.service, gone.status, gone.last_seen) for gone in second.gone] == [("b", "green", "2026-11-24T12:00:00Z")]
    assert run_of(after=first, hours=1, error="connection refused").gone == ()


# -- waivers --


def test_a_waiver_of_a_verdict():
    found = only(run_of(probed("not_proven"), settings=replace(SETTINGS, waivers=(waiver("not_proven"),))))
    assert (found.status, found.since) == ("waived", "2026-11-24T12:00:00Z")
    assert found.why.startswith("waived until 2026-11-24 by team shop (being moved): ")
    assert run_of(probed("not_proven"), settings=replace(SETTINGS, waivers=(waiver("not_proven"),))).status == "green"


@pytest.mark.parametrize("other", [waiver("failed"), waiver("not_proven", service="bank/*"), waiver("C13")])
def test_a_waiver_of_something_else_does_not_hold(other: Waiver):
    found = only(run_of(probed("not_proven"), settings=replace(SETTINGS, waivers=(other,))))
    assert (found.status, found.waiver) == ("red", None)


def test_after_its_day_it_is_red_again_and_says_so():
    before = run_of(probed("failed"), settings=replace(SETTINGS, waivers=(waiver("failed"),)))
    after = run_of(probed("failed"), after=before, hours=12, settings=replace(SETTINGS, waivers=(waiver("failed"),)))
    assert (only(after).status, only(after).since) == ("red", "2026-11-24T12:00:00Z")
    assert only(after).why.startswith("the waiver of team shop expired on 2026-11-24 (being moved): ")
    assert only(after).waiver
    assert only(after).waiver.expired
    healthy = only(run_of(probed("passed"), settings=replace(SETTINGS, waivers=(waiver("failed", YESTERDAY),))))
    assert (healthy.status, healthy.waiver) == ("green", None)


def test_a_waived_finding_does_not_hide_another():
    one = recorded("failed") | {"findings": [FINDING]}
    two = recorded("failed") | {"findings": [FINDING, FINDING | {"id": "C20"}]}
    mild = recorded("failed") | {"findings": [FINDING, FINDING | {"id": "C20", "severity": "warning"}]}
    settings = replace(SETTINGS, waivers=(waiver("C13"),))
    assert only(run_of(probed(one), settings=settings)).status == "waived"
    assert only(run_of(probed(mild), settings=settings)).status == "waived"
    assert only(run_of(probed(two), settings=settings)).status == "red"
    assert only(run_of(probed(two), settings=replace(SETTINGS, waivers=(waiver("C13"), waiver("C20"))))).status == "waived"
