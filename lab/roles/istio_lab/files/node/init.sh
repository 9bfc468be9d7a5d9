#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# First of three steps of a node's PID 1, in namespaces of its own but still in the host's file system: turns ROOT into the root.
# In: NODE, ROOT, TOOLS (part), IMAGES (part).
set -eu

mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
cd "$ROOT"

mount -t proc -o nosuid,nodev,noexec proc proc
echo "$NODE" >proc/sys/kernel/hostname
mount --rbind /sys sys

mount -t tmpfs -o mode=0755,nosuid tmpfs dev
for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 kmsg:1:11; do
  name=${device%%:*}
  numbers=${device#*:}
  mknod -m 0666 "dev/$name" c "${numbers%:*}" "${numbers#*:}"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# A fresh /run forgets the sockets and pid files of a node that was killed.
mount -t tmpfs -o mode=0755,nosuid,nodev tmpfs run
mount --bind "$TOOLS" istio-lab/tools
mount -o remount,bind,ro istio-lab/tools
mount --bind "$IMAGES/storage" istio-lab/images
mount -o remount,bind,ro istio-lab/images

# The kubelet sets these for the whole machine; the machine's owner would not expect that, so the node writes to files in their place.
mkdir -p run/istio-lab/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 \
  kernel/keys/root_maxbytes=25000000; do
  name=${setting%=*}
  file=run/istio-lab/sysctl/$(echo "$name" | tr / .)
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "proc/sys/$name"
done

mkdir -p .host
pivot_root . .host
exec chroot . /usr/bin/env -i PATH=/istio-lab/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NODE="$NODE" INDEX="$INDEX" \
  API_PORT="$API_PORT" CHARTS_PORT="$CHARTS_PORT" ISTIO_LAB_CACHE="$ISTIO_LAB_CACHE" /istio-lab/boot.sh
