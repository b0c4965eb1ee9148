"""Asking a file system to put what it holds on its medium.  Source: syncfs(2)."""

from __future__ import annotations

import os

from abboot.errors import DeviceError
from abboot.linux.sysroot import device_error


def sync_filesystem(path: str) -> None:
    """Everything that was written to the file system of the folder ``path`` is on its medium when this returns.

    Raises:
        DeviceError: there is no such folder, or a write failed that somebody made earlier.
    """
    import ctypes

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise device_error("read", path, error) from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise DeviceError(f"cannot sync {path}: {os.strerror(code).lower()}", "the medium may be failing")
    finally:
        os.close(fd)
