# SPDX-FileCopyrightText: 2026 meshops.istio contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files that others may have put there: read without following links or waiting, written atomically.

This module util is private to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

# Reports may contain session IDs: nothing for other users. The umask may take away more.
FILE_MODE, FOLDER_MODE = 0o660, 0o770
# No link is followed, and a FIFO does not block.
SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK


def open_regular(path: Path, flags: int, mode: int = FILE_MODE) -> int:
    """A descriptor of a regular file, with the rights of other users taken away if the file is ours. Raises OSError."""
    descriptor = os.open(path, flags | SAFELY, mode)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if flags & os.O_CREAT and status.st_mode & 0o007 and status.st_uid == os.geteuid():
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~0o007)
    return descriptor


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes. Raises OSError."""
    with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes", str(path))
    return content


def is_folder(path: Path) -> bool:
    """Whether it is a directory itself, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def write(path: Path, content: bytes, mode: int = FILE_MODE) -> None:
    """Write a file atomically: if something fails, the old content stays."""
    temporary = path.with_name(partial_name())
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def partial_name() -> str:
    """A name for what is not complete yet."""
    return f".partial-{secrets.token_hex(8)}"
