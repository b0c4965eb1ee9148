"""Whether the supply voltage is too low right now.

A card that loses power while it writes damages more than the block that it writes (H-47), and a brown-out is how losing
power begins: nothing is committed during one.

Rules: only bit 0 counts, "under-voltage detected now"; that it happened once since the boot (bit 16) is no reason to
wait.  Where nobody tells, the answer is ``None``, and nothing waits.
Sources: Raspberry Pi documentation, ``vcgencmd get_throttled``; raspberrypi/linux drivers/firmware/raspberrypi.c
(``get_throttled``, hexadecimal); drivers/hwmon/raspberrypi-hwmon.c (``rpi_volt``, ``in0_lcrit_alarm``), which mainline
kernels have too.
"""

from __future__ import annotations

import os

from abboot.linux.sysroot import read_number, read_word, under

_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
_HWMON = "sys/class/hwmon"
_MAX_HWMONS = 64
_UNDER_VOLTAGE_NOW = 0x1


def under_voltage(sysroot: str = "/") -> bool | None:
    """Whether the firmware sees too low a voltage now; ``None`` where no file of ``sys`` tells."""
    word = read_word(under(sysroot, _THROTTLED), 32)
    if word is not None:
        try:
            return bool(int(word, 16) & _UNDER_VOLTAGE_NOW)
        except ValueError:
            pass  # not what a kernel writes: the other file may be better
    base = under(sysroot, _HWMON)
    try:
        names = sorted(os.listdir(base))[:_MAX_HWMONS]
    except OSError:
        return None
    for name in names:
        if read_word(os.path.join(base, name, "name"), 64) == "rpi_volt":
            alarm = read_number(os.path.join(base, name, "in0_lcrit_alarm"))
            return None if alarm is None else alarm != 0
    return None
