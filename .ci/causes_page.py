# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes docs/my-session-does-not-stick.md from the catalogue of causes (`make docs`); with --check says only whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/my-session-does-not-stick.md"
init_plugin_loader([str(ROOT / "collections")])  # type: ignore[no-untyped-call]  # Ansible has no types for it

from ansible_collections.meshops.istio.plugins.module_utils._causes import SECTIONS, Cause  # noqa: E402 - by the loader

HEAD = """\
<!--
SPDX-FileCopyrightText: 2026 meshops.istio contributors
SPDX-License-Identifier: GPL-3.0-or-later
Made by `make docs` from the catalogue in plugins/module_utils/_causes; what is changed here by hand is lost.
-->
# My session does not stick

From the symptom to the cause to the fix. `istio_affinity_check` looks for all of these itself when it does not pass (option
`explain`), and returns in `findings` those that hold, the root cause first, each with what shows it and with a fix that
can be applied as printed. `istio_affinity_info` finds those that show without sending anything.

```yaml
- name: Say why sessions of the shop do not stick
  meshops.istio.istio_affinity_check:
    namespace: shop
    service: cart
    key:
      type: header
      name: user-session
    explain: always
```

## By symptom

| what you see | look at |
|---|---|
"""
UNSEEN = """
## What a check can't see

It sends HTTP/1.1 requests of its own, each session with one value. So it has no evidence of what is wrong with the callers' requests:

* C33 - a caller that speaks HTTP/1.0: Envoy answers 426 Upgrade Required. Let it speak HTTP/1.1, or set `PILOT_HTTP10` for istiod.
* C45 - a caller that sends another value with each request, in a header that is not one of tracing: its requests spread, and a
  check on the same header passes. The access log of the client's sidecar shows the values, with the header in its format.
* C44 - callers behind one NAT, without a gateway: they are one source address, and land on one pod. Hash on a header or cookie.
"""
NOT_CAUSES = """
## What is not a cause

* mutual TLS, `STRICT` or not: it has no part in the choice of a host. Where the two sides do not agree on it, requests fail.
* `warmup` (slow start): only round robin and least request know it.
* The order of endpoints of equal weight, which differs between proxies: ring and table are sorted by hash.
* `spec.sessionAffinity` of the Service: Istio does not read it. It matters only to clients without a sidecar.
* Capital letters in a header's name, HTTP/2 instead of HTTP/1.1, a `minimumRingSize` above the default.
"""


def page() -> str:
    symptoms: dict[str, list[str]] = {}
    for section in SECTIONS:
        for cause in section.causes:
            symptoms.setdefault(cause.symptom, []).append(f"[{cause.id}](#{cause.id.lower()})")
    lines = [HEAD, *(f"| {symptom} | {', '.join(ids)} |\n" for symptom, ids in symptoms.items())]
    for section in SECTIONS:
        lines.append(f"\n## {section.title}\n")
        lines.extend(_entry(cause) for cause in section.causes)
    unproven = [cause for section in SECTIONS for cause in section.causes if cause.synthetic]
    lines.append("\n## Not proven live\n\nThe lab can't produce these. Their tests use state made by hand:\n\n")
    lines.extend(f"* [{cause.id}](#{cause.id.lower()}) - {cause.synthetic}\n" for cause in unproven)
    lines.append("\nAll others are produced on a real cluster by a test, which then applies the printed fix and sees the check pass.\n")
    return "".join([*lines, UNSEEN, NOT_CAUSES])


def _entry(cause: Cause) -> str:
    points = (f"Symptom: {cause.symptom}.", f"Shown by: {cause.seen}.", f"Fix: {cause.cure}.", f"Read more: <{cause.reference}>")
    return f"\n### {cause.id}\n\n**{cause.title}.**\n\n" + "".join(f"* {point}\n" for point in points)


def main() -> None:
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() != page():
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what the catalogue makes it. Next: make docs")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
