"""Rebooting this system, with or without an argument for the firmware.

Rules: the argument goes through ``/run/systemd/reboot-param``, the one way that every systemd since v226 honours and
that survives until the reboot; the same file is what a later plain reboot would carry by mistake (H-12), so a plain
reboot removes it first.  Without systemd ``reboot`` commands drop the argument (H-30): reboot(2) is called.
With a sysroot other than ``/`` the reboot is recorded, not made; the argument file is an ordinary file below it.
Sources: systemctl(1), "reboot"; reboot(2), LINUX_REBOOT_CMD_RESTART2; raspberrypi/linux drivers/firmware/raspberrypi.c
(the argument must contain `` tryboot``, with its leading space).
"""

from __future__ import annotations

import contextlib
import os
import struct

from abboot.errors import DeviceError
from abboot.linux.sysroot import device_error, is_live, place_to_write, read_small, record_request, under, write_small

ARGUMENT_FILE = "run/systemd/reboot-param"
_SYSTEMD_RUNS = "run/systemd/system"  # sd_booted(3)
_SYSTEMCTL = ("/usr/bin/systemctl", "/bin/systemctl")
_SYSTEMCTL_TIMEOUT_S = 60
_MAX_ARGUMENT_BYTES = 255  # reboot(2)

_MAGIC1, _MAGIC2 = 0xFEE1DEAD, 672274793
_RESTART, _RESTART2 = 0x01234567, 0xA1B2C3D4


class SystemRebooter:
    """How this system reboots; below a sysroot, how it would."""

    def __init__(self, sysroot: str = "/") -> None:
        self._sysroot = sysroot
        self._file = under(sysroot, ARGUMENT_FILE)

    def pending_argument(self) -> str | None:
        """What the next ordinary reboot would carry: the first line of the argument file; ``None`` without one."""
        content = read_small(self._file, _MAX_ARGUMENT_BYTES + 1)
        if content is None:
            return None
        return content.decode("utf-8", "replace").split("\n", 1)[0].strip() or None

    def set_argument(self, argument: str) -> None:
        """Leave ``argument`` for the next reboot; nothing happens on a system without systemd.

        Raises:
            DeviceError: the file is as it was.
        """
        _check(argument)
        if self._has_systemd():
            write_small(self._sysroot, ARGUMENT_FILE, f"{argument}\n".encode())

    def clear_argument(self) -> None:
        """Remove a pending argument.  Idempotent.

        Raises:
            DeviceError: it is still there.
        """
        if not os.path.lexists(self._file):
            return
        place = place_to_write(self._sysroot, ARGUMENT_FILE)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
        except OSError as error:
            raise device_error("remove", place, error, "run as root") from error

    def inhibitors(self) -> tuple[str, ...]:
        """Who blocks a shutdown through systemd-logind; nobody below a sysroot."""
        from abboot.linux.inhibitors import shutdown_inhibitors

        return tuple(map(str, shutdown_inhibitors(self._sysroot)))

    def reboot(self, argument: str | None) -> None:
        """Ask for a reboot, with ``argument`` or, for ``None``, a plain one: whatever argument is pending is removed.

        Raises:
            DeviceError: the system refused; it goes on running.
        """
        if argument is None:
            self.clear_argument()
        else:
            self.set_argument(argument)
        if not is_live(self._sysroot):
            record_request(self._sysroot, "reboot", argument=argument, systemd=self._has_systemd())
        elif self._has_systemd():
            _systemctl_reboot()
        else:
            _kernel_reboot(argument)

    def _has_systemd(self) -> bool:
        return os.path.isdir(under(self._sysroot, _SYSTEMD_RUNS))


def syscall_number(machine: str, pointer_size: int) -> int | None:
    """The number of reboot(2); ``None`` for a machine that we do not know.

    Args:
        machine: as ``uname -m`` says: that of the kernel, which may be a 64-bit one under a 32-bit userland.
        pointer_size: bytes, of this process.
    """
    if machine.startswith(("arm", "aarch64")):
        return 142 if pointer_size == 8 else 88
    if machine == "x86_64" or (machine.startswith("i") and machine.endswith("86")):
        return 169 if pointer_size == 8 else 88
    return None


def _check(argument: str) -> None:
    if not argument or "\n" in argument or "\0" in argument or len(argument.encode()) > _MAX_ARGUMENT_BYTES:
        raise ValueError(f"no reboot argument: {argument!r}")


def _systemctl_reboot() -> None:
    import subprocess  # here and not above: `abboot status` does without

    program = next((path for path in _SYSTEMCTL if os.path.exists(path)), _SYSTEMCTL[0])
    hint = "reboot by hand; systemctl list-jobs says what it waits for"
    try:
        result = subprocess.run(
            [program, "reboot"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SYSTEMCTL_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise device_error("run", program, error, hint) from error
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"cannot reboot: {program} gave no answer in {_SYSTEMCTL_TIMEOUT_S} s", hint) from error
    if result.returncode:
        said = result.stderr[:400].decode("utf-8", "replace").strip().replace("\n", "; ")
        raise DeviceError(f"cannot reboot: {program} ended with {result.returncode}: {said}", hint)


def _kernel_reboot(argument: str | None) -> None:
    import ctypes

    hint = "run as root, outside of a container"
    machine = os.uname().machine
    number = syscall_number(machine, struct.calcsize("P"))
    if number is None:
        raise DeviceError(f"cannot reboot: the number of reboot(2) on {machine} is not known", "reboot by hand")
    os.sync()  # reboot(2) does not
    libc = ctypes.CDLL(None, use_errno=True)
    if argument is None:
        command, text = _RESTART, None
    else:
        command, text = _RESTART2, ctypes.c_char_p(argument.encode())
    libc.syscall(ctypes.c_long(number), ctypes.c_uint(_MAGIC1), ctypes.c_uint(_MAGIC2), ctypes.c_uint(command), text)
    # Only a refused reboot comes back.
    error = ctypes.get_errno()
    raise device_error("reboot", "this system", OSError(error, os.strerror(error)), hint)
