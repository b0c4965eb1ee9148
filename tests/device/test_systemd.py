"""The units of a device, started by this machine's own systemd as PID 1 of namespaces of its own.

``abboot`` is a script there that notes what it was called with.  Nothing of this machine can be changed from inside:
``/usr``, ``/sys`` and ``/proc/sys`` are read-only, and a reboot ends the namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from abboot.units import install_units

SYSTEMD = Path("/usr/lib/systemd/systemd")
LIMIT_S = 60.0
CHECK = """\
[Unit]
Before=boot-complete.target
After={after}
[Service]
Type=oneshot
ExecStart=/usr/bin/{command}
"""
INSIDE = """\
set -e
mount --bind /usr "$1/usr"
mount -o remount,bind,ro "$1/usr"
mount -t proc proc "$1/proc"
mount --bind "$1/proc/sys" "$1/proc/sys"
mount -o remount,bind,ro "$1/proc/sys"
mount -t sysfs -o ro sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/sys/fs/cgroup"
if [ "$2" = try ]; then exit 0; fi
mkdir "$1/sys/fs/cgroup/systemd"
mount -t cgroup -o none,name=systemd cgroup "$1/sys/fs/cgroup/systemd" ||
    { umount "$1/sys/fs/cgroup"; mount -t cgroup2 cgroup2 "$1/sys/fs/cgroup"; }
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/dev"
for node in null zero full random urandom; do touch "$1/dev/$node"; mount --bind "/dev/$node" "$1/dev/$node"; done
exec chroot "$1" /usr/bin/env -i container=test PATH=/usr/bin:/bin \
    /usr/lib/systemd/systemd --system --unit=multi-user.target --log-target=null --show-status=no
"""


def inside(root: Path, what: str = "boot") -> list[str]:
    apart = ["unshare", "--fork", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--kill-child=KILL"]
    return [*apart, "sh", "-c", INSIDE, "sh", str(root), what]


@attrs.define
class Machine:
    """A root with the units of a device."""

    root: Path

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def deadline(self, after: str) -> None:
        self.write(
            "etc/systemd/system/abboot-deadline.timer.d/test.conf",
            f"[Timer]\nOnBootSec=\nOnBootSec={after}\nAccuracySec=100ms\n",
        )

    def check(self, command: str, *, after: str = "multi-user.target") -> None:
        """What a user adds: a unit that boot-complete.target requires."""
        self.write("etc/systemd/system/my-check.service", CHECK.format(after=after, command=command))
        link = self.root / "etc/systemd/system/boot-complete.target.requires/my-check.service"
        link.parent.mkdir()
        link.symlink_to("/etc/systemd/system/my-check.service")

    @property
    def calls(self) -> list[str]:
        place = self.root / "calls"
        return place.read_text().split() if place.exists() else []

    @contextmanager
    def booted(self) -> Iterator[subprocess.Popen[bytes]]:
        running = subprocess.Popen(
            inside(self.root), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield running
        finally:
            running.kill()  # and with it everything inside
            running.wait(10)

    def boots_until(self, *calls: str) -> None:
        """Boot, wait for these calls, and a little for others."""
        with self.booted():
            self.wait_for(*calls)
            time.sleep(1)

    def wait_for(self, *calls: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not set(calls) <= set(self.calls):
            assert time.monotonic() < end, self.calls
            time.sleep(0.05)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if os.geteuid() != 0 or shutil.which("unshare") is None or not SYSTEMD.exists():
        pytest.skip("booting systemd needs root, unshare and systemd")
    root = tmp_path / "root"
    for folder in ("usr", "etc", "proc", "sys", "dev", "run", "tmp", "var", "opt", "board"):
        (root / folder).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    found = Machine(root)
    found.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    found.write("opt/abboot", '#!/bin/sh\necho "$1" >> /calls\n[ ! -f "/fails-$1" ]\n', 0o755)
    (root / "board/tryboot").write_bytes(b"\0\0\0\1")
    install_units(str(root), executable="/opt/abboot", verify=False)
    for unit in (root / "etc/systemd/system").glob("abboot-*"):
        unit.write_text(unit.read_text().replace("/proc/device-tree/chosen/bootloader", "/board"))
    (root / "etc/systemd/system.conf.d/50-abboot.conf").unlink()  # this machine's watchdog is not ours
    tried = subprocess.run(inside(root, "try"), check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.decode(errors='replace').strip()[-200:]}")
    return found


def test_the_early_unit_comes_first_then_the_confirmation_then_the_deadline(machine: Machine) -> None:
    machine.check("true")
    machine.deadline("3s")

    machine.boots_until("deadline", "confirm")

    assert machine.calls[0] == "note-boot"
    assert sorted(machine.calls) == ["confirm", "deadline", "note-boot"]


def test_a_required_check_that_fails_leaves_the_trial_at_once(machine: Machine) -> None:
    machine.check("false")
    machine.deadline("1h")

    machine.boots_until("deadline")

    assert machine.calls == ["note-boot", "deadline"]


def test_a_confirmation_that_fails_leaves_the_trial(machine: Machine) -> None:
    machine.write("fails-confirm", "")
    machine.deadline("1h")

    machine.boots_until("deadline")

    assert machine.calls == ["note-boot", "confirm", "deadline"]


def test_the_deadline_comes_though_the_confirmation_was_dropped_from_the_boot(machine: Machine) -> None:
    """H-38: a cycle, which systemd breaks by not starting one of its units."""
    machine.check("true", after="abboot-confirm.service")
    machine.deadline("3s")

    machine.boots_until("deadline")

    assert machine.calls == ["note-boot", "deadline"]


def test_the_deadline_comes_in_emergency_mode(machine: Machine) -> None:
    """A file system that is not there: neither basic.target nor timers.target is ever reached."""
    machine.write("etc/fstab", "nowhere /data nosuchfs defaults 0 0\n")
    machine.deadline("4s")

    machine.boots_until("deadline")

    assert machine.calls == ["note-boot", "deadline"]


def test_a_trial_in_which_abboot_does_not_work_is_rebooted(machine: Machine) -> None:
    for verb in ("note-boot", "confirm", "deadline"):
        machine.write(f"fails-{verb}", "")
    machine.deadline("1h")

    with machine.booted() as running:
        running.wait(LIMIT_S)  # the reboot ends the namespaces

    assert machine.calls == ["note-boot", "confirm", "deadline"]


@pytest.mark.parametrize("why", ["the flag did not begin this boot", "it was confirmed"])
def test_the_last_resort_is_for_nothing_else(machine: Machine, why: str) -> None:
    """G7."""
    machine.write("fails-deadline", "")
    if why == "it was confirmed":
        machine.deadline("3s")
    else:
        (machine.root / "board/tryboot").write_bytes(b"\0\0\0\0")
        machine.write("fails-confirm", "")
        machine.deadline("1h")

    with machine.booted() as running:
        machine.wait_for("deadline")
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(3)

    assert machine.calls == ["note-boot", "confirm", "deadline"]


def test_on_a_machine_that_is_no_pi_nothing_starts(machine: Machine) -> None:
    shutil.rmtree(machine.root / "board")
    machine.check("true", after="basic.target")
    machine.write(
        "etc/systemd/system/my-check.service.d/last.conf",
        "[Service]\nExecStart=/bin/sleep 2\nExecStart=/opt/abboot last\n",
    )
    requires = machine.root / "etc/systemd/system/multi-user.target.requires"
    requires.mkdir()
    (requires / "my-check.service").symlink_to("/etc/systemd/system/my-check.service")
    machine.deadline("1s")

    machine.boots_until("last")

    assert machine.calls == ["last"]
