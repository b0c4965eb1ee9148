"""The one-shot tryboot flag of the firmware, through the mailbox device.

Rules: an answer is believed only if the firmware marked both the buffer and the tag as answered; a firmware that does
not know a tag leaves the tag unmarked.  With a sysroot other than ``/`` there is no ioctl: the flag is kept in
``<sysroot>/run/abboot/tryboot-flag`` if the sysroot has a mailbox (any file ``dev/vcio`` or ``dev/vcio_ab``), and
setting it is recorded.
An answer that does not come is an error after a few seconds: the kernel itself gives up after one (drivers/firmware/
raspberrypi.c, ``wait_for_completion_timeout``), but it waits for its other users without a limit.
Sources: raspberrypi/firmware wiki, "Mailbox property interface"; raspberrypi/linux drivers/char/broadcom/vcio.c
(``_IOWR(100, 0, char *)``); linux#7351 for ``/dev/vcio_ab``, which lets only boot-related tags through.
Mainline kernels have no such device, so there the flag can neither be read nor set (H-29, rpi-eeprom#716).
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Sequence
from functools import partial

from abboot.errors import DeviceError
from abboot.linux.sysroot import device_error, is_live, read_word, record_request, under, write_small

GET_REBOOT_FLAGS = 0x00030064
SET_REBOOT_FLAGS = 0x00038064
TRYBOOT = 0x1

FLAG_FILE = "run/abboot/tryboot-flag"
_DEVICES = ("dev/vcio_ab", "dev/vcio")  # the restricted one first, as rpi-eeprom-ab does
_WORDS = struct.Struct("=7I")
_ANSWERED = 0x80000000
_TIMEOUT_S = 5.0
# _IOWR(100, 0, char *): the pointer's size is part of the number.
IOCTL_MBOX_PROPERTY = 0xC0006400 | struct.calcsize("P") << 16


def encode_request(tag: int, value: int) -> bytes:
    """The property buffer for one tag with one 32-bit value, in the byte order of this machine."""
    return _WORDS.pack(_WORDS.size, 0, tag, 4, 0, value, 0)


def decode_reply(reply: bytes, tag: int) -> int:
    """The value that the firmware answered to ``tag``.

    Raises:
        DeviceError: the firmware reported an error, does not know the tag, or answered something else.
    """
    hint = "update the firmware: rpi-eeprom-update -a, and start*.elf on the boot partition"
    if len(reply) != _WORDS.size:
        raise DeviceError(f"cannot use the firmware mailbox: {len(reply)} bytes came back of {_WORDS.size}", hint)
    words: tuple[int, ...] = _WORDS.unpack(reply)
    _size, status, answered_tag, value_size, tag_status, value, _end = words
    if status != _ANSWERED or answered_tag != tag:
        raise DeviceError(f"cannot use the firmware mailbox: status {status:#010x} for tag {answered_tag:#010x}", hint)
    if not tag_status & _ANSWERED or tag_status & ~_ANSWERED != 4 or value_size != 4:
        raise DeviceError(f"cannot use the firmware mailbox: the firmware does not know tag {tag:#010x}", hint)
    return value


class KernelMailbox:
    """The mailbox of this system, or the stand-in below a sysroot."""

    def __init__(self, sysroot: str = "/") -> None:
        self._sysroot = sysroot

    def tryboot_flag(self) -> bool | None:
        """The flag; ``None`` where it cannot be asked for: no mailbox device (H-29), or no permission to use it.

        Raises:
            DeviceError: the firmware answered an error.
        """
        if not is_live(self._sysroot):
            return read_word(under(self._sysroot, FLAG_FILE)) == "1" if self._has_device() else None
        flags = self._ask(GET_REBOOT_FLAGS, 0)
        return None if flags is None else bool(flags & TRYBOOT)

    def set_tryboot_flag(self, value: bool) -> None:
        """Set or clear the flag; the caller reads it back.

        Raises:
            DeviceError: there is no mailbox, or the firmware refused.
        """
        if not is_live(self._sysroot):
            answer = self._pretend(value) if self._has_device() else None
        else:
            answer = self._ask(SET_REBOOT_FLAGS, TRYBOOT if value else 0)
        if answer is None:
            verb = "set" if value else "clear"
            raise DeviceError(
                f"cannot {verb} the tryboot flag: no usable /dev/vcio",
                "run as root; a mainline kernel has no /dev/vcio: use the Raspberry Pi kernel (H-29)",
            )

    def _has_device(self) -> bool:
        return any(os.path.isfile(under(self._sysroot, device)) for device in _DEVICES)

    def _pretend(self, value: bool) -> int:
        record_request(self._sysroot, "mailbox", tag=f"{SET_REBOOT_FLAGS:#010x}", value=int(value))
        write_small(self._sysroot, FLAG_FILE, b"1\n" if value else b"0\n")
        return int(value)

    def _ask(self, tag: int, value: int) -> int | None:
        return ask([under(self._sysroot, device) for device in _DEVICES], tag, value)


def _call(fd: int, buffer: bytearray) -> None:
    fcntl.ioctl(fd, IOCTL_MBOX_PROPERTY, buffer, True)


def ask(
    paths: Sequence[str],
    tag: int,
    value: int,
    *,
    call: Callable[[int, bytearray], None] = _call,
    timeout_s: float = _TIMEOUT_S,
) -> int | None:
    """What the firmware answers to one tag, through the first of these devices that lets it through.

    Args:
        paths: of mailbox devices.
        tag: what is asked or set.
        value: that goes with it.
        call: hands a buffer to an open device, and gets the answer in it.
        timeout_s: seconds to wait for that.

    Returns:
        The value; ``None`` where there is no such device, or none that may be used.

    Raises:
        DeviceError: the firmware answered an error, or nothing.
    """
    for path in paths:
        buffer = bytearray(encode_request(tag, value))
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV):
                continue
            raise device_error("open", path, error) from error
        try:
            _within(timeout_s, partial(call, fd, buffer), path)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):  # vcio_ab lets some tags through only
                continue
            raise device_error("use", path, error) from error
        finally:
            os.close(fd)
        return decode_reply(bytes(buffer), tag)
    return None


def _within(timeout_s: float, act: Callable[[], None], name: str) -> None:
    """Do something that may never come back; what it raises is raised here.

    A thread that hangs in the kernel cannot be ended: it is left there.  ``threading`` would wait for it at exit, and
    costs ``status`` the time to load it.
    """
    failures: list[OSError] = []
    running = _thread.allocate_lock()

    def run() -> None:
        try:
            act()
        except OSError as error:
            failures.append(error)
        finally:
            running.release()

    running.acquire()
    _thread.start_new_thread(run, ())
    if not running.acquire(timeout=timeout_s):
        raise DeviceError(
            f"cannot use {name}: the firmware gave no answer in {timeout_s:g} s", "cut the power; dmesg may tell more"
        )
    if failures:
        raise failures[0]
