# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must and must not stand in any file of the project."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from harness import BIN, ROOT, project_files, run

SELF = Path(__file__).resolve().relative_to(ROOT)

# Generated, recorded, or in a format without comments.
WITHOUT_HEADER = re.compile(r"(^LICENSE|^CHANGELOG\.md|^changelogs/changelog\.yaml|\.(json|conflist|lock|sum|png|svg)|^tests/unit/.*/fixtures/.*)$")


@cache
def texts() -> dict[Path, str]:
    """Every file of the project that is text, by its name."""
    found = {}
    for name in project_files():
        content = (ROOT / name).read_bytes() if not (ROOT / name).is_symlink() else b"\0"
        if b"\0" not in content:
            found[name] = content.decode("utf-8")
    assert len(found) > 20
    return found


def test_licence_headers():
    wanted = ("SPDX-FileCopyrightText: 2026 meshops.istio contributors", "SPDX-License-Identifier: GPL-3.0-or-later")
    without = [
        str(name)
        for name, text in texts().items()
        if not WITHOUT_HEADER.search(name.as_posix()) and any(line not in "\n".join(text.splitlines()[:6]) for line in wanted)
    ]
    assert not without


# -- nothing that ties the project to one machine --


def _registry_hosts() -> set[str]:
    """The hosts that this machine's package clients are set to ask."""
    told = ""
    for client in (("pip", "config", "list"), ("go", "env", "GOPROXY", "GOSUMDB"), ("npm", "config", "get", "registry")):
        program = BIN / "pip" if client[0] == "pip" else shutil.which(client[0])
        if program:
            told += run(program, *client[1:], timeout=60).stdout
    apt = Path("/etc/apt")
    sources = [apt / "sources.list", *apt.glob("sources.list.d/*.list"), *apt.glob("sources.list.d/*.sources")]
    settings = [Path.home() / ".cargo/config.toml", Path.home() / ".m2/settings.xml"]
    for path in (*sources, *settings):
        if path.is_file():
            told += "\n".join(line for line in path.read_text(errors="replace").splitlines() if not line.lstrip().startswith("#"))
    schemas = re.compile(r"maven\.apache\.org|www\.w3\.org")
    hosts = re.findall(r"https?://(?:[^/\s@'\"]+@)?([^/\s,|'\"<>:]+)", told)
    return {host for host in hosts if not schemas.fullmatch(host) and host != "localhost" and not host.startswith("127.")}


def test_no_registry_hosts():
    hosts = _registry_hosts()
    assert hosts
    assert not [(str(name), host) for name, text in texts().items() for host in hosts if host in text]


MACHINE_PATH = re.compile(r"/(?:work|farm)/(?:main|steering|shared|\.library|\w+/)|/tmp/w/|/home/(?!<|\$)\w+/|/root/\.")


def test_no_machine_paths():
    assert MACHINE_PATH.search("cd /home/somebody/src")
    own = str(ROOT)
    assert not [(str(name), line) for name, text in texts().items() if name != SELF for line in text.splitlines() if MACHINE_PATH.search(line) or own in line]


# -- nothing left over, nothing silenced without a reason --

LEFTOVER = re.compile(r"\b(TODO|FIXME|XXX)\b")
SILENCED = re.compile(r"#\s*(noqa|nosec|type:\s*ignore|pylint:\s*disable|shellcheck disable|pragma: no cover)")
WITH_REASON = re.compile(r"#\s*(noqa:|type:\s*ignore\[|pylint:\s*disable=|shellcheck disable=)\s*[\w\-\[\], ]+?\]?\s+(-|#)\s+\w.*\w")


def _bad_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if LEFTOVER.search(line) or (SILENCED.search(line) and not WITH_REASON.search(line))]


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("x = 1  # TODO later", True),
        ("x = 1  # noqa", True),
        ("x = 1  # noqa: E501", True),
        ("x = 1  # noqa: E501, F401 - the address is one word", False),
        ("x = 1  # type: ignore[misc]", True),
        ("x = 1  # type: ignore[misc]  # the base has no types", False),
        ("# shellcheck disable=SC2086", True),
        ("# shellcheck disable=SC2086 # split on purpose", False),
        ("    no_log: true # noqa: yaml[comments] # shown to explain it", False),
    ],
)
def test_leftovers_are_told_apart(line: str, bad: bool):
    assert bool(_bad_lines(line)) is bad


def test_no_leftovers():
    found = {str(name): _bad_lines(text) for name, text in texts().items() if name != SELF and name.suffix != ".sum"}
    assert not {name: lines for name, lines in found.items() if lines}


def test_plain_text():
    """Unix line ends, a newline at the end, no tabs or trailing blanks where they mean nothing."""
    found = []
    for name, text in texts().items():
        if re.search(r"/fixtures/", name.as_posix()) or name.name == "LICENSE":
            continue
        if "\r" in text or (text and not text.endswith("\n")) or re.search(r"[ \t]+$", text, re.MULTILINE):
            found.append(str(name))
    assert not found


def test_shell_scripts():
    scripts = [name for name, text in texts().items() if re.match(r"#!.*\b(ba)?sh\b", text) and name.suffix != ".j2"]
    assert scripts
    run(BIN / "shellcheck", "--severity=style", *scripts).expect()
