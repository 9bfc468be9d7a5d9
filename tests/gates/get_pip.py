# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands where ansible-test expects the bootstrap script of pip that it would download, and needs nothing but the machine's own index."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: ensurepip switches pip's configuration off for the process that it runs in.
subprocess.run([sys.executable, "-m", "ensurepip", "--upgrade"], check=True)
words = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
