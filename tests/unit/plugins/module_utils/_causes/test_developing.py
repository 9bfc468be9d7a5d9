# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example of "Add a cause" in docs/developing.md, taken from the page and run."""

from __future__ import annotations

import re
import runpy
import textwrap
from pathlib import Path

import pytest

from ansible_collections.meshops.istio.plugins.module_utils import _causes
from ansible_collections.meshops.istio.plugins.module_utils._causes import rule
from harness import ROOT

CATALOGUE_TESTS = Path(__file__).with_name("test_catalogue.py")


def test_the_example_works_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/developing.md").read_text().partition("## Add a cause")[2].partition("\n## ")[0]
    function, unit_test, _case = (textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL))
    monkeypatch.setattr(rule.SECTION, "causes", list(rule.SECTION.causes))
    exec(function, vars(rule).copy())  # noqa: S102 - the page's own example
    monkeypatch.setattr(_causes, "CATALOGUE", tuple(cause for section in _causes.SECTIONS for cause in section.causes))
    assert "C99" in {cause.id for cause in _causes.CATALOGUE}
    written = runpy.run_path(str(CATALOGUE_TESTS))
    exec(unit_test, written)  # noqa: S102 - the page's own example
    written["test_a_deprecated_ring_size_is_reported"]()
