# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real readers of a report, fetched once into the lab's cache: promtool, Jenkins' schema of JUnit files, Chromium and axe-core."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

from harness import BIN, LAB_CACHE, debian_root, run

CACHE = LAB_CACHE / "readers"
# pytest's source has Jenkins' schema among its own tests, this package's wheel has axe-core.
PYTEST = "pytest==9.2.0"
AXE = "axe-playwright-python==0.1.8"
# Without the last ones Chromium looks for its maker's hosts all the time.
CHROMIUM = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """A file or folder of the cache; it is made in a place of its own and then moved there, so it is whole or not there."""
    target = CACHE / name
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            made = Path(place) / "made"
            make(made)
            made.replace(target)
    return target


def apt(*words: str, cwd: Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    tried = run("apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", *words, cwd=cwd, env=environment)
    if tried.rc:
        # A fresh machine has no lists of packages yet.
        run("apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", "update", cwd=cwd, env=environment).expect()
        run(*tried.command, cwd=cwd, env=environment).expect()


def promtool() -> Path:
    """Debian's."""
    return debian_root("prometheus", "prometheus-node-exporter") / "usr/bin/promtool"


def jenkins_schema() -> Path:
    """The schema that Jenkins' xUnit plugin checks JUnit files with."""

    def make(target: Path) -> None:
        run(BIN / "pip", "download", "-q", "--no-deps", "--no-binary", "pytest", "-d", target.parent, PYTEST).expect()
        (source,) = target.parent.glob("pytest-*.tar.gz")
        with tarfile.open(source) as opened:
            member = next(member for member in opened.getmembers() if member.name.endswith("/junit-10.xsd"))
            content = opened.extractfile(member)
            assert content
            target.write_bytes(content.read())

    return cached("junit-10.xsd", make)


def axe() -> str:
    """axe-core, as a script."""

    def make(target: Path) -> None:
        run(BIN / "pip", "download", "-q", "--no-deps", "-d", target.parent, AXE).expect()
        (wheel,) = target.parent.glob("*.whl")
        with zipfile.ZipFile(wheel) as opened:
            target.write_bytes(opened.read("axe_playwright_python/axe.min.js"))

    return cached("axe.min.js", make).read_text()


class Browser:
    """A page of a headless Chromium, by its DevTools protocol."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60)
        self._count = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; what the page reports meanwhile goes into `events`."""
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                assert "error" not in message, message
                return dict(message["result"])

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, page: Path) -> None:
        """Load a file, to its end."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def show(self, width: int, height: int, scheme: str, media: str = "screen") -> None:
        """A window of this size, in light or dark, on a screen or on paper."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        self.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key: str) -> None:
        code, text = {"Tab": (9, ""), "Enter": (13, "\r")}[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[dict[str, Any]]:
        """What the page's console shows, and what it asked the network for besides itself."""
        noisy = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        asked = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event for event in self.events if event["method"] in noisy] + asked[1:]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's; installed if it is not there."""
    with tempfile.TemporaryDirectory() as home:
        if not shutil.which("chromium"):
            apt("install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core", cwd=Path(home))
        words = ("chromium", *CHROMIUM.split(), f"--user-data-dir={home}/profile", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
        log = Path(home) / "log"
        with log.open("w") as opened:
            process = subprocess.Popen(words, stdout=opened, stderr=opened)
        try:
            browser = Browser(_page_of(process, log))
            yield browser
            browser.close()
        finally:
            process.terminate()
            process.wait(timeout=30)


def _page_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address of its first page, which it says where it listens once it does."""
    while process.poll() is None:
        found = re.search(r"DevTools listening on ws://([^/]+)/", log.read_text())
        if found:
            with urllib.request.urlopen(f"http://{found.group(1)}/json") as answer:
                pages = json.load(answer)
            return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
    pytest.fail(f"Chromium ended with {process.returncode}\n{log.read_text()}", pytrace=False)
