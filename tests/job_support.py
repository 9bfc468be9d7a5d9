# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of scheduled jobs, which the lab builds when it's asked to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import BIN, LAB_CACHE, ROOT, locked, run


def job_image(artifact: Path) -> str:
    """The image with Ansible and this artifact, in the lab's registry: what a pod has to ask for. Seconds, if only the collection is new."""
    words = ("-i", "localhost,", "-c", "local", "lab/job-image.yml", "-e", f"istio_lab_collection={artifact}")
    # Not while a test stops the lab, and one at a time.
    with locked("job-image"), locked("tests", shared=True):
        ran = run(ROOT / "lab/with-lock", BIN / "ansible-playbook", *words, timeout=900).expect()
    (reference,) = re.findall(r"docker[.]io/meshops/istio-verify:[0-9a-f]{16}", ran.stdout)
    return str(reference)


def job_root(artifact: Path) -> Path:
    """That image's Debian trixie with Ansible, without the collection, as a folder."""
    job_image(artifact)
    found = list((LAB_CACHE / "parts").glob("job-root-*/root"))
    if len(found) != 1:
        pytest.fail(f"There should be one root of scheduled jobs, and there are: {found}", pytrace=False)
    return found[0]
