"""What the firmware told this kernel, from the device tree.

Rules: a cell is exactly four bytes, big-endian, and never text; anything else is reported as missing.
Sources: Raspberry Pi documentation, "Device trees, overlays, and parameters", ``chosen/bootloader``; ``rsts`` was
called ``pm_rsts`` in older texts.
"""

from __future__ import annotations

import os

from abboot.core.protocols import BootReport
from abboot.linux.sysroot import read_small, under

_MAX_MODEL_BYTES = 256
_MAX_BOOTARGS_BYTES = 8192  # the kernel takes 2048 (COMMAND_LINE_SIZE, arch/arm64)


def read_boot_report(sysroot: str = "/") -> BootReport | None:
    """The ``chosen/bootloader`` node; ``None`` when there is none: not a Pi, or U-Boot or UEFI passed its own tree."""
    base = _base(sysroot)
    node = os.path.join(base, "chosen", "bootloader")
    if not os.path.isdir(node):
        return None
    tryboot = _cell(node, "tryboot")
    rsts = _cell(node, "rsts")
    return BootReport(
        partition=_cell(node, "partition"),
        tryboot=None if tryboot is None else tryboot != 0,
        boot_mode=_cell(node, "boot-mode"),
        rsts=_cell(node, "pm_rsts") if rsts is None else rsts,
        build_timestamp=_cell(node, "build-timestamp"),
        capabilities=_cell(node, "capabilities"),
        model=read_model(sysroot),
        bootargs=_text(os.path.join(base, "chosen", "bootargs"), _MAX_BOOTARGS_BYTES),
    )


def read_bootloader_cell(name: str, sysroot: str = "/") -> int | None:
    """One more number of ``chosen/bootloader``, such as ``signed``; ``None`` where it is missing or malformed."""
    return _cell(os.path.join(_base(sysroot), "chosen", "bootloader"), name)


def read_model(sysroot: str = "/") -> str | None:
    """``Raspberry Pi 4 Model B Rev 1.4``; characters that a terminal should not see are replaced by ``?``."""
    return _text(os.path.join(_base(sysroot), "model"), _MAX_MODEL_BYTES)


def _text(path: str, limit: int) -> str | None:
    content = read_small(path, limit)
    text = (content or b"").partition(b"\0")[0].decode("ascii", "replace").strip()
    return "".join(character if " " <= character <= "~" else "?" for character in text) or None


def _base(sysroot: str) -> str:
    """``/proc/device-tree`` is a link to an absolute path: below a sysroot it would lead to this very system's."""
    proc = under(sysroot, "proc/device-tree")
    sys = under(sysroot, "sys/firmware/devicetree/base")
    return sys if os.path.islink(proc) and os.path.isdir(sys) else proc


def _cell(node: str, name: str) -> int | None:
    content = read_small(os.path.join(node, name), 5)
    return int.from_bytes(content, "big") if content is not None and len(content) == 4 else None
