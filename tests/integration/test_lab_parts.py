# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parts of the lab: named by what goes into them, built whole or not at all, from the archive that the machine itself uses."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from harness import BIN, ROOT, clean_environment, run

ROLE = ROOT / "lab/roles/istio_lab"


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shared() -> ModuleType:
    # Under the name that Ansible gives it when a module of the role runs.
    return _load(ROLE / "module_utils/istio_lab.py", "ansible.module_utils.istio_lab")


@pytest.fixture(scope="module")
def facts(shared: ModuleType) -> ModuleType:
    return _load(ROLE / "library/istio_lab_facts.py", "istio_lab_facts")


# -- the archive --

DEB822 = """# the machine's own
Types: deb deb-src
URIs: http://archive.example/debian
Suites: trixie trixie-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security
Suites: trixie-security
Components: main
"""
DISABLED = "Enabled: no\nTypes: deb\nURIs: http://old.example/debian\nSuites: trixie\nComponents: main\n\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sources.list.d/debian.sources": DEB822}, "http://archive.example/debian"),
        ({"sources.list.d/debian.sources": DISABLED + DEB822}, "http://archive.example/debian"),
        ({"sources.list": "deb [arch=amd64 signed-by=/k.gpg] https://one.example/debian/ trixie main\n"}, "https://one.example/debian/"),
        ({"sources.list": "# deb http://no.example/debian trixie main\ndeb http://yes.example/debian stable main\n"}, "http://yes.example/debian"),
        ({"sources.list.d/vendor.list": "deb https://vendor.example/apt tool main\ndeb-src http://src.example/debian trixie main\n"}, None),
        ({"sources.list": "deb http://security.example/debian-security trixie main\n"}, None),
        ({}, None),
    ],
)
def test_archive_is_the_one_of_the_machines_own_release(facts: ModuleType, tmp_path: Path, files: dict[str, str], expected: str | None):
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert facts.debian_mirror("trixie", tmp_path) == expected


def test_archive_behind_a_list_of_mirrors(facts: ModuleType, tmp_path: Path):
    (tmp_path / "mirrors").write_text("https://first.example/debian\nhttps://second.example/debian\n")
    (tmp_path / "sources.list").write_text(f"deb mirror+file:{tmp_path}/mirrors trixie main\n")
    assert facts.debian_mirror("trixie", tmp_path) == "https://first.example/debian"


# -- names --


def _paths(shared: ModuleType, facts: ModuleType, source: Path, **environment: str) -> dict[str, str]:
    parts = [
        {"name": "tools", "script": "build.sh", "inputs": ["tools"], "environment": environment},
        {"name": "root", "script": "build.sh", "environment": {"PACKAGES": "one two"}},
        {"name": "images", "script": "build.sh", "needs": {"TOOLS": "tools"}},
    ]
    return {part["name"]: part["path"] for part in facts.parts_with_paths(shared.Layout(Path("/cache")), source, parts)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source/tools").mkdir(parents=True)
    (tmp_path / "source/tools/go.mod").write_text("module lab\n")
    (tmp_path / "source/build.sh").write_text("true\n")
    return tmp_path / "source"


def test_same_content_in_another_checkout_is_the_same_part(shared: ModuleType, facts: ModuleType, source: Path, tmp_path: Path):
    shutil.copytree(source, tmp_path / "other")
    assert _paths(shared, facts, source) == _paths(shared, facts, tmp_path / "other")


def test_other_content_is_another_part_and_so_is_what_needs_it(shared: ModuleType, facts: ModuleType, source: Path):
    before = _paths(shared, facts, source)
    (source / "tools/go.mod").write_text("module lab\n\n")
    touched = _paths(shared, facts, source)
    assert {name for name, path in touched.items() if path != before[name]} == {"tools", "images"}
    told = _paths(shared, facts, source, VERSION="2")
    assert {name for name, path in told.items() if path != touched[name]} == {"tools", "images"}
    (source / "build.sh").chmod(0o755)
    assert all(path != told[name] for name, path in _paths(shared, facts, source, VERSION="2").items())


# -- builds --


def _build(tmp_path: Path, script: str) -> list[str]:
    """The command that builds a part by this script, as a play of the role would."""
    (tmp_path / "build.sh").write_text(script)
    options = {"name": "part", "cache": f"{tmp_path}/cache", "path": f"{tmp_path}/cache/parts/part-0123", "script": f"{tmp_path}/build.sh", "environment": {}}
    play: dict[str, Any] = {"hosts": "localhost", "gather_facts": False, "tasks": [{"istio_lab_part": options}]}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    return [str(BIN / "ansible-playbook"), "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}", str(tmp_path / "play.yml")]


@pytest.fixture
def settings() -> dict[str, str]:
    return clean_environment(ANSIBLE_LIBRARY=str(ROLE / "library"), ANSIBLE_MODULE_UTILS=str(ROLE / "module_utils"))


def _commands() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def test_killed_build_is_ended_and_done_anew(tmp_path: Path, settings: dict[str, str]):
    killed = _build(tmp_path, "mkdir m\nmount -t tmpfs tmpfs m\necho $$ >alive\nsleep 600\n")
    parts = tmp_path / "cache/parts"
    (parts / "part-old").mkdir(parents=True)
    with subprocess.Popen(killed, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as play:
        deadline = time.monotonic() + 60
        while not (parts / "part-0123.partial/alive").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        play.kill()
    assert not (parts / "part-0123").exists()
    assert (parts / "part-old").exists()

    run(*_build(tmp_path, "echo whole >file\n"), env=settings).expect()
    assert (parts / "part-0123/file").read_text() == "whole\n"
    assert {path.name for path in parts.iterdir()} == {"part-0123"}, "nothing partial, nothing old"
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert all(str(tmp_path).encode() not in command for command in _commands()), "no process outlives it"


def test_failed_build_shows_the_end_of_its_log_and_leaves_no_part(tmp_path: Path, settings: dict[str, str]):
    failed = run(*_build(tmp_path, "for n in $(seq 40); do echo line $n; done\nexit 3\n"), env=settings).expect(2)
    said = " ".join(failed.output.split())
    assert f"Building part failed (exit status 3). The whole log is {tmp_path}/cache/logs/build-part.log; it ends:" in said
    assert "line 40" in said
    assert "line 20 " not in said
    assert not (tmp_path / "cache/parts/part-0123").exists()


# -- an image that is asked for later --


@pytest.fixture(scope="module")
def images(shared: ModuleType) -> ModuleType:
    return _load(ROLE / "library/istio_lab_image.py", "istio_lab_image")


def _image(images: ModuleType, storage: Path, name: str, tag: str, *layers: str) -> None:
    """A registry's storage with one image, as far as links and blobs go."""
    digests = [hashlib.sha256(layer.encode()).hexdigest() for layer in (*layers, f"manifest of {layers}")]
    folder = images.repository(storage, name)
    for path, digest in [(f"_layers/sha256/{digest}", digest) for digest in digests[:-1]] + [(f"_manifests/tags/{tag}/current", digests[-1])]:
        (folder / path).mkdir(parents=True)
        (folder / path / "link").write_text(f"sha256:{digest}")
    for digest, content in zip(digests, (*layers, "manifest"), strict=True):
        images.blob(storage, digest).mkdir(parents=True, exist_ok=True)
        (images.blob(storage, digest) / "data").write_text(content)


def _contents(storage: Path) -> list[str]:
    return sorted(path.read_text() for path in storage.rglob("data"))


def test_image_takes_the_place_of_the_one_before(images: ModuleType, tmp_path: Path):
    """The lab's own images keep their layers, one that is shared too; nothing is left of the old one."""
    registry = tmp_path / "registry"
    _image(images, registry, "library/nginx", "1", "debian", "nginx")
    for number, layers in enumerate((("debian", "ansible", "old"), ("debian", "ansible", "new")), 1):
        _image(images, tmp_path / f"source{number}", "meshops/job", str(number), *layers)
        images.replace(tmp_path / f"source{number}", registry, "meshops/job")
        assert images.whole(registry, "meshops/job") == images.whole(tmp_path / f"source{number}", "meshops/job")
    assert _contents(registry) == sorted(["debian", "nginx", "manifest", "ansible", "new", "manifest"])
    assert images.whole(registry, "library/nginx")


def test_image_that_was_half_put_there_is_put_there_anew(images: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ended before any of its steps, it is whole or not there at all; done again it is whole."""
    _image(images, tmp_path / "source", "meshops/job", "2", "debian", "ansible")
    steps = 0
    done = False
    copy, delete = shutil.copytree, images.delete_tree

    def step(call: Callable[..., None], *words: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        call(*words)

    while not done:
        steps += 1
        left = steps
        registry = tmp_path / f"registry{steps}"
        _image(images, registry, "meshops/job", "1", "debian", "old")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(images.shutil, "copytree", lambda *words: step(copy, *words))
            patch.setattr(images, "delete_tree", lambda *words: step(delete, *words))
            images.replace(tmp_path / "source", registry, "meshops/job")
            done = True
        assert images.whole(registry, "meshops/job") or not images.repository(registry, "meshops/job").exists()
        images.replace(tmp_path / "source", registry, "meshops/job")
        assert images.whole(registry, "meshops/job") == images.whole(tmp_path / "source", "meshops/job")
    assert steps > 5
