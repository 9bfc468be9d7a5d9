#!/bin/sh
# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes a Debian root file system with Ansible and kubernetes.core in root/.
# In: LAB, PYTHON, DEBIAN_MIRROR, DEBIAN_SUITE, DEBIAN_PACKAGES, DEBIAN_PYTHON (its Python's version), ANSIBLE_VERSION (the package that carries kubernetes.core).
set -eu

sh "$LAB/roles/istio_lab/files/build/debian-root.sh"

# Fetched by this machine's pip, for the Python in there: so that root needs no pip, and nothing of how this machine reaches its package index gets into it.
packages=root/usr/local/lib/python$DEBIAN_PYTHON/dist-packages
set -- --no-deps --only-binary :all: --python-version "$DEBIAN_PYTHON" --ignore-requires-python
"$PYTHON" -m pip install "$@" --no-compile --target "$packages" --requirement "$LAB/job/requirements.txt"
"$PYTHON" -m pip download "$@" --dest wheel "ansible==$ANSIBLE_VERSION"
"$PYTHON" - wheel/*.whl root/usr/share/ansible/collections <<'END'
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith("ansible_collections/kubernetes/core/")])
END
rm -rf wheel "$packages/ansible_test"

for program in "$packages"/bin/ansible*; do
  sed -i '1s|^#!.*|#!/usr/bin/python3|' "$program"
  mv "$program" root/usr/local/bin/
done
rm -rf "${packages:?}/bin"
# By content, as the times of files don't get into an image.
chroot root python3 -m compileall -q --invalidation-mode unchecked-hash "${packages#root}" /usr/share/ansible/collections
echo 'verify:x:1000:1000::/nonexistent:/usr/sbin/nologin' >>root/etc/passwd
echo 'verify:x:1000:' >>root/etc/group
chroot root ansible-playbook --version
