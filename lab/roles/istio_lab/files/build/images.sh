#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds every image of the lab and pushes it into the storage of the registry that each node runs.
# buildah and the registry are those of the node root, in an overlay over it: that part itself stays as it was built.
# In: LAB, TOOLS, NODE_ROOT, IMAGE_ROOT, ENVOY (folders of parts), KUBERNETES_VERSION, ISTIO_VERSION, NGINX_TAG, CURL_TAG, DEBIAN_SUITE.
# Out: storage/.
set -eu

mkdir -p storage work/upper work/overlay work/containers work/root
mount -t overlay -o "lowerdir=$NODE_ROOT/root,upperdir=work/upper,workdir=work/overlay" overlay work/root
root=work/root
mkdir -p $root/var/lib/containers $root/context/tools $root/context/root $root/context/envoy $root/context/images $root/storage
mount --bind work/containers $root/var/lib/containers
mount --bind storage $root/storage
mount --bind "$TOOLS" $root/context/tools
mount --bind "$IMAGE_ROOT/root" $root/context/root
mount --bind "$ENVOY" $root/context/envoy
mount --bind "$LAB/images" $root/context/images
mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/run

cat >$root/build.sh <<'END'
set -eu
ip link set lo up
export PATH=/context/tools/bin:$PATH HOME=/tmp
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /storage}}\nhttp: {addr: "127.0.0.1:5000"}\n' >/tmp/registry.yml
docker-registry serve /tmp/registry.yml >/tmp/registry.log 2>&1 &
registry=$!

# image <name without registry> <Containerfile's folder> [build argument]
image() {
  echo "image $1"
  buildah build --quiet --isolation chroot --format oci --tag "lab/$1" ${3:+--build-arg "$3"} --file "/context/images/$2/Containerfile" /context
  buildah push --quiet --format oci --compression-format zstd --compression-level 1 --tls-verify=false "lab/$1" "docker://127.0.0.1:5000/$1"
}

buildah build --quiet --isolation chroot --format oci --tag lab/base --file /context/images/base/Containerfile /context
kubeadm config images list --kubernetes-version "v$KUBERNETES_VERSION" >/tmp/kubernetes-images
while read -r reference; do
  name=${reference#*/}
  case $name in
    kube-proxy:*) image "$name" kube-proxy ;;
    pause:*) image "$name" pause ;;
    coredns/*) image "$name" coredns ;;
    *) image "$name" static "PROGRAM=${name%%:*}" ;;
  esac
done </tmp/kubernetes-images
image "istio/pilot:$ISTIO_VERSION" pilot
image "istio/proxyv2:$ISTIO_VERSION" proxyv2
image "library/nginx:$NGINX_TAG" nginx
image "curlimages/curl:$CURL_TAG" curl
image "library/debian:$DEBIAN_SUITE-slim" debian
kill $registry
wait $registry || true
END
unshare --net env KUBERNETES_VERSION="$KUBERNETES_VERSION" ISTIO_VERSION="$ISTIO_VERSION" NGINX_TAG="$NGINX_TAG" CURL_TAG="$CURL_TAG" \
  DEBIAN_SUITE="$DEBIAN_SUITE" chroot $root /bin/sh /build.sh

umount --lazy --recursive $root
rm -rf work
