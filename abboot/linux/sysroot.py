"""Where the kernel's interfaces are read from, and the log of what was not done because they are not this kernel's.

Rules: with a sysroot other than ``/`` no ioctl, no reboot(2) and no systemctl is ever issued: the request is appended
to ``<sysroot>/run/abboot/requests.jsonl``, one JSON object a line.  Files below a sysroot may be anything (a capture of
another board, a hostile archive): they are read with a bound, and only if they are regular files.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from abboot.errors import DeviceError

REQUESTS = "run/abboot/requests.jsonl"
_MAX_REQUESTS_BYTES = 4 * 1024 * 1024


def is_live(sysroot: str) -> bool:
    """Whether ``sysroot`` is this very system: only then is anything asked of the kernel."""
    return os.path.realpath(sysroot) == "/"


def under(sysroot: str, path: str) -> str:
    """The path of ``path`` (absolute or not) below ``sysroot``."""
    return os.path.join(sysroot, path.lstrip("/"))


def read_small(path: str, limit: int) -> bytes | None:
    """The first ``limit`` bytes of a regular file; ``None`` where there is none or it cannot be read.

    A FIFO or a device node in place of the file is neither waited for nor read (G10).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        content = b""
        while len(content) < limit and (piece := os.read(fd, limit - len(content))):
            content += piece
        return content
    except OSError:
        return None
    finally:
        os.close(fd)


def read_word(path: str, limit: int = 256) -> str | None:
    """The content of a one-line file of ``sys`` or ``proc``, stripped; ``None`` if there is none."""
    content = read_small(path, limit)
    return None if content is None else content.decode("ascii", "replace").strip()


def read_number(path: str) -> int | None:
    """The decimal number in a file of ``sys``; ``None`` if there is none or it is no number."""
    word = read_word(path, 32)
    return int(word) if word is not None and word.isascii() and word.isdigit() else None


def place_to_write(sysroot: str, path: str) -> str:
    """The path of ``path`` below ``sysroot``, for writing; its folder need not exist.

    Raises:
        DeviceError: links in the sysroot lead out of it, so the file would be one of this system's.
    """
    place = under(sysroot, path)
    root = os.path.realpath(sysroot)
    if os.path.commonpath([root, os.path.realpath(os.path.dirname(place))]) != root:
        raise DeviceError(
            f"cannot write {place}: its folder is {os.path.realpath(os.path.dirname(place))}, outside of {root}",
            "a link in the sysroot leads out of it: remove the link",
        )
    return place


def write_small(sysroot: str, path: str, content: bytes) -> None:
    """Replace a small file of ``run`` in one step, making its folder.  Not durable: ``run`` does not outlive the boot.

    Raises:
        DeviceError: the file is as it was.
    """
    place = place_to_write(sysroot, path)
    temporary = f"{place}.abboot-new"
    try:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            file.write(content)
        os.replace(temporary, place)
    except OSError as error:
        raise device_error("write", place, error, "run as root") from error


def record_request(sysroot: str, request: str, **facts: object) -> None:
    """Note a request to the kernel that was not made, because ``sysroot`` is not this system.

    Raises:
        DeviceError: it could not even be noted.
    """
    path = place_to_write(sysroot, REQUESTS)
    line = json.dumps({"request": request, **facts}, sort_keys=True) + "\n"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise device_error("record a request in", path, error) from error


def recorded_requests(sysroot: str) -> tuple[dict[str, Any], ...]:
    """What :func:`record_request` noted under ``sysroot``, oldest first; lines that are not ours are skipped."""
    content = read_small(under(sysroot, REQUESTS), _MAX_REQUESTS_BYTES) or b""
    found = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and "request" in entry:
            found.append(entry)
    return tuple(found)


def device_error(verb: str, name: str, error: OSError, hint: str = "") -> DeviceError:
    """The sentence for an error of the operating system: ``cannot <verb> <name>: <what it said>``."""
    reason = error.strerror or str(error)
    return DeviceError(f"cannot {verb} {name}: {reason[:1].lower()}{reason[1:]}", hint)
