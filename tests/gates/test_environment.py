# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gates run on is what requirements.txt says."""

from __future__ import annotations

import re

from harness import BIN, ROOT, run


def _canonical(line: str) -> str:
    name, version = line.split("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def test_every_installed_package_is_pinned():
    pins = {_canonical(line.split("#")[0].strip()) for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    installed = {_canonical(line) for line in run(BIN / "python", "-m", "pip", "freeze", "--all", "--exclude", "pip").expect().stdout.splitlines()}
    assert len(installed) > 20
    assert installed == pins


def test_installed_packages_agree():
    run(BIN / "python", "-m", "pip", "check").expect()
