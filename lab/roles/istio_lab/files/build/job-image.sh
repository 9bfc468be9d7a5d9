#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds an image and pushes it into storage/, laid out as a registry keeps it; as images.sh does for the lab's own.
# In: LAB, NODE_ROOT, CONTAINERFILE (below LAB), IMAGE (its name); JOB_ROOT for one made of that root; for one made of another image JOB_BASE, with that image,
# and COLLECTION, an artifact. Its tag is the hash of the part, which is in the folder's name, or `latest` for one that is only built upon.
set -eu

tag=${PWD##*-}
tag=${tag%.partial}
mkdir -p storage work/upper work/overlay work/containers work/root
mount -t overlay -o "lowerdir=$NODE_ROOT/root,upperdir=work/upper,workdir=work/overlay" overlay work/root
root=work/root
mkdir -p $root/var/lib/containers $root/context/root $root/storage
mount --bind work/containers $root/var/lib/containers
mount --bind storage $root/storage
if [ -n "${JOB_BASE:-}" ]; then
  cp -a "$JOB_BASE/storage/." storage/
  cp "$COLLECTION" $root/context/collection.tar.gz
else
  tag=latest
  mount --bind "$JOB_ROOT/root" $root/context/root
fi
cp "$LAB/$CONTAINERFILE" $root/context/Containerfile
mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount --rbind /dev $root/dev
mount -t tmpfs tmpfs $root/run

cat >$root/build.sh <<'END'
set -eu
ip link set lo up
export HOME=/tmp
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: /storage}}\nhttp: {addr: "127.0.0.1:5000"}\n' >/tmp/registry.yml
docker-registry serve /tmp/registry.yml >/tmp/registry.log 2>&1 &
registry=$!
until socat -u OPEN:/dev/null TCP:127.0.0.1:5000 2>/dev/null; do
  kill -0 $registry
  sleep 0.1
done
# No times of files in it: the same content is the same image.
buildah build --isolation chroot --format oci --tls-verify=false --timestamp 0 --tag lab/image /context
buildah push --quiet --format oci --compression-format zstd --compression-level 1 --tls-verify=false lab/image "docker://127.0.0.1:5000/$IMAGE"
kill $registry
wait $registry || true
END
unshare --net env IMAGE="$IMAGE:$tag" chroot $root /bin/sh /build.sh

umount --lazy --recursive $root
rm -rf work
