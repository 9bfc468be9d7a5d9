# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the path of the lab's kubeconfig and exit 0 if its API server is ready; else print one line that says why not, and exit 1.

Runs on any Python 3 without packages, because asking must not build anything.
"""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit


def not_ready(kubeconfig: Path) -> str | None:
    """Why the cluster of this kubeconfig doesn't answer, or None if it is ready."""
    try:
        text = kubeconfig.read_text(encoding="utf-8")
    except OSError:
        return f"there is no lab: {kubeconfig} does not exist"
    server = re.search(r"^\s*server:\s*\"?(https://[^\s\"]+)", text, re.MULTILINE)
    authority = re.search(r"^\s*certificate-authority-data:\s*\"?([A-Za-z0-9+/=]+)", text, re.MULTILINE)
    if not server or not authority:
        return f"{kubeconfig} is not the lab's"
    url = urlsplit(server.group(1))
    try:
        # The certificate is the lab's own: nothing else that listens on the port is taken for it.
        context = ssl.create_default_context(cadata=base64.b64decode(authority.group(1)).decode("ascii"))
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, timeout=5, context=context)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return f"the lab does not answer at {url.netloc}: {problem}"
    return None if status == http.client.OK else f"the lab at {url.netloc} is not ready: /readyz answers {status}"


def main() -> int:
    kubeconfig = Path(sys.argv[1]).absolute()
    reason = not_ready(kubeconfig)
    print(reason or kubeconfig)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
