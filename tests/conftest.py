"""What all tests share: where tools are found, named skips, and how hypothesis searches."""

from __future__ import annotations

import os
import shutil

import hypothesis
import pytest

# Debian keeps mkfs.vfat, fsck.vfat, sfdisk and sgdisk out of an ordinary user's PATH.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# Time limits per example fail on a busy machine, not on a bug.
hypothesis.settings.register_profile("abboot", deadline=None, print_blob=True)
hypothesis.settings.load_profile("abboot")

DEBIAN_PACKAGES = {
    "fsck.vfat": "dosfstools",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "mdir": "mtools",
    "minfo": "mtools",
    "mtype": "mtools",
    "mlabel": "mtools",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "sfdisk": "fdisk",
    "sgdisk": "gdisk",
    "dpkg-deb": "dpkg",
    "lintian": "lintian",
    "man": "man-db",
    "mmdebstrap": "mmdebstrap",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*commands): skip, by name, where one of these tools is not installed")
    config.addinivalue_line("markers", "packaging: builds, downloads and installs; half a minute")
    config.addinivalue_line(
        "markers", "kernel: boots a real kernel in an emulator; run by `make vfat`, not by `make test`"
    )
    config.addinivalue_line(
        "markers", "debian: installs the package in fresh Debian systems; run by `make debtest`, not by `make test`"
    )
    config.addinivalue_line("markers", "e2e: boots whole cards in an emulator; run by `make e2e`, not by `make test`")
    config.addinivalue_line("markers", "cuts: hundreds of real power cuts; run by `make cuts`")
    # pytest-xdist's; named here so that the tests also run without it.
    config.addinivalue_line("markers", "xdist_group(name): tests that stay in one process, to share a slow fixture")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for command in mark.args:
            if shutil.which(command) is None:
                pytest.skip(f"{command} is not installed (Debian package {DEBIAN_PACKAGES.get(command, command)})")
