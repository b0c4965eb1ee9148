#!/usr/bin/env python3
"""Write a synthetic Raspberry Pi boot tree: seeded, 339 files, 71 521 773 bytes.

Usage: ``mktree.py DIRECTORY``.  Names, sizes and their mix are those of a Raspberry Pi OS boot partition; the content
is random, so that nothing gains from holes or from equal files.  The same seed gives the same bytes on every Python.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

MIB = 1 << 20

KERNELS = {
    "kernel8.img": 9 * MIB + 12345,
    "kernel_2712.img": 9 * MIB + 54321,
    "initramfs8": 12 * MIB + 777,
    "initramfs_2712": 12 * MIB + 4242,
}
FIRMWARE_MIB = {
    "start.elf": 3.0,
    "start4.elf": 2.2,
    "start_x.elf": 3.7,
    "start4x.elf": 3.0,
    "start_db.elf": 4.0,
    "start4db.elf": 3.7,
    "start_cd.elf": 0.8,
    "start4cd.elf": 0.8,
    "fixup_x.bin": 1.0,
    "fixup4x.bin": 1.0,
}
FIXUPS = ("fixup", "fixup4", "fixup_cd", "fixup4cd", "fixup_db", "fixup4db", "fixup_x", "fixup4x")
BOARDS = (
    "bcm2708-rpi-b",
    "bcm2708-rpi-b-plus",
    "bcm2708-rpi-b-rev1",
    "bcm2708-rpi-cm",
    "bcm2708-rpi-zero",
    "bcm2708-rpi-zero-w",
    "bcm2709-rpi-2-b",
    "bcm2709-rpi-cm2",
    "bcm2710-rpi-2-b",
    "bcm2710-rpi-3-b",
    "bcm2710-rpi-3-b-plus",
    "bcm2710-rpi-cm0",
    "bcm2710-rpi-cm3",
    "bcm2710-rpi-zero-2",
    "bcm2710-rpi-zero-2-w",
    "bcm2711-rpi-4-b",
    "bcm2711-rpi-400",
    "bcm2711-rpi-cm4",
    "bcm2711-rpi-cm4-io",
    "bcm2711-rpi-cm4s",
    "bcm2712-d-rpi-5-b",
    "bcm2712-rpi-5-b",
    "bcm2712-rpi-500",
    "bcm2712-rpi-cm5-cm4io",
    "bcm2712-rpi-cm5-cm5io",
    "bcm2712-rpi-cm5l-cm4io",
    "bcm2712-rpi-cm5l-cm5io",
    "bcm2712d0-rpi-5-b",
)
SMALL = {
    "config.txt": 1200,
    "cmdline.txt": 180,
    "issue.txt": 150,
    "LICENCE.broadcom": 1594,
    "bootcode.bin": 52476,
    "COPYING.linux": 18693,
    "overlays/README": 280000,
    "overlays/overlay_map.dtb": 2800,
    "overlays/hat_map.dtb": 2100,
}
OVERLAYS = (
    "act-led",
    "adafruit-st7735r",
    "adau1977-adc",
    "ads1015",
    "ads1115",
    "audioinjector",
    "bcm2712d0",
    "bmp085_i2c-sensor",
    "can",
    "cm-swap-i2c0",
    "disable-bt",
    "disable-wifi",
    "dwc2",
    "edt-ft5406",
    "enc28j60",
    "exc3000",
    "gpio-fan",
    "gpio-ir",
    "hifiberry-amp",
    "i2c-bcm2708",
    "i2c-gpio",
    "i2c-rtc",
    "i2c-sensor",
    "imx219",
    "imx477",
    "justboom-dac",
    "mcp2515-can0",
    "mcp23017",
    "mpu6050",
    "pca953x",
    "pifi-40",
    "rpi-poe",
    "sc16is750-i2c",
    "sdio",
    "spi0-1cs",
    "ssd1306",
    "tc358743",
    "uart0",
    "vc4-kms-v3d",
    "w1-gpio",
)
VARIANTS = ("", "-pi5", "-overlay", "-gpio", "-i2c", "-spi", "-pro")


def make(root: Path, seed: int = 1) -> Path:
    """Write the tree below ``root``, which is made if it is not there."""
    rng = random.Random(seed)

    def write(name: str, size_bytes: int) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size_bytes))

    # The order of the calls is part of what the seed means.
    for name, size_bytes in KERNELS.items():
        write(name, size_bytes)
    for name, size_mib in FIRMWARE_MIB.items():
        write(name, int(size_mib * MIB) + rng.randrange(4096))
    for name in FIXUPS:
        write(f"{name}.dat", 3000 + rng.randrange(8000))
    for name in BOARDS:
        write(f"{name}.dtb", rng.randrange(50000, 80000))
    for name, size_bytes in SMALL.items():
        write(name, size_bytes)
    for variant in VARIANTS:
        for name in OVERLAYS:
            write(f"overlays/{name}{variant}.dtbo", rng.randrange(1000, 5000))
    return root


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: mktree.py DIRECTORY")
    sizes = [path.stat().st_size for path in make(Path(sys.argv[1])).rglob("*") if path.is_file()]
    print(len(sizes), "files", sum(sizes), "bytes", round(sum(sizes) / MIB, 2), "MiB")
