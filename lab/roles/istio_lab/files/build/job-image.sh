#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Builds the scheduled job's image and pushes it into storage/, laid out as a registry keeps it; as images.sh does for the lab's own.
# In: LAB, NODE_ROOT, JOB_ROOT (folders of parts), COLLECTION (the artifact), IMAGE (its name). Its tag is the hash of this part, which is in the folder's name.
set -eu

tag=${PWD##*-}
mkdir -p storage work/upper work/overlay work/containers work/root
mount -t overlay -o "lowerdir=$NODE_ROOT/root,upperdir=work/upper,workdir=work/overlay" overlay work/root
root=work/root
mkdir -p $root/var/lib/containers $root/context/root $root/storage
mount --bind work/containers $root/var/lib/containers
mount --bind storage $root/storage
mount --bind "$JOB_ROOT/root" $root/context/root
cp "$LAB/job/Containerfile" $root/context/
cp "$COLLECTION" $root/context/collection.tar.gz
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
# With layers, and no times in them: then the one of Debian and Ansible is the same, and kept, whatever the collection.
buildah build --quiet --isolation chroot --format oci --layers --timestamp 0 --tag lab/job /context
buildah push --quiet --format oci --compression-format zstd --compression-level 1 --tls-verify=false lab/job "docker://127.0.0.1:5000/$IMAGE"
kill $registry
wait $registry || true
END
unshare --net env IMAGE="$IMAGE:${tag%.partial}" chroot $root /bin/sh /build.sh

umount --lazy --recursive $root
rm -rf work
