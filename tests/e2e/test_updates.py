"""Whole updates on a real kernel: from the stage to the cold boot afterwards, and everything that can go wrong between.

What abboot says inside the guest is one witness; the bytes of the card, read outside by mtools and fsck.vfat, and the
partition that the firmware chooses are the others.  Each test leaves a transcript in ``.cache/e2e/transcripts``.
"""

from __future__ import annotations

from typing import Any

import pytest

from abboot import BootManager
from abboot.core.words import Slot
from tests.e2e.bench import BOOT_S, Bench, EndKind
from tests.e2e.conftest import MakeBench

pytestmark = pytest.mark.e2e

TRYBOOT = "0 tryboot"
NODE = "/dev/mmcblk0p"


def stage(bench: Bench, words: str = "/overlays/v2") -> str:
    """Stage onto the inactive slot; the digest of its record."""
    staged = bench.abboot(f"stage --base booted {words}")
    assert staged["changed"]
    return str(staged["record_digest"])


def stage_outside(bench: Bench, overlay: str = "v2", **changes: Any) -> None:
    """The same onto the card while it lies on the bench, where it takes a second."""
    with BootManager.open(bench.image) as manager:
        folders = [bench.guest.folder / "overlays" / overlay] if overlay else []
        assert manager.stage(None, base="booted", overlays=folders, **changes).changed
    bench.pi.power_cycle()


def start_trial(bench: Bench) -> None:
    """Arm and reboot; nothing is switched on yet."""
    end = bench.ends_with("abboot trial")
    assert (end.kind, end.argument) == (EndKind.REBOOT, TRYBOOT)
    assert bench.pi.boot.tryboot or bench.pi.boot.partition is None  # nothing boots


def outcome(bench: Bench) -> tuple[str, str]:
    """Let abboot note how the last trial ended; the outcome, and the state of the slot that was tried."""
    confirmed = bench.abboot("confirm")
    assert confirmed["verdict"] == "none"
    status = bench.abboot("status")
    assert status["phase"] == "settled"
    last = status["last_trial"]
    return last["outcome"], status["slots"][last["slot"]]["state"]


def test_an_update_is_staged_tried_and_committed_and_then_boots_cold(bench: Bench) -> None:
    assert bench.boot() == 2
    status = bench.abboot("status")
    assert (status["phase"], status["booted"], status["primary"]) == ("settled", "a", "a")
    assert status["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert any("reboot argument alone" in note for note in status["notes"])
    digest = stage(bench)
    assert bench.autoboot() == {"all": "2", "tryboot": "2"}

    start_trial(bench)
    assert bench.autoboot() == {"all": "2", "tryboot": "3"}
    bench.fsck("selector", "a", "b")

    assert bench.boot() == 3
    status = bench.abboot("status")
    assert (status["phase"], status["booted"], status["primary"]) == ("trial", "b", "a")
    assert status["slots"]["b"]["record_digest"] == digest
    bench.type(f"mount -t vfat -o ro {NODE}3 /mnt && cmp /mnt/payload.bin /overlays/v2/payload.bin")
    assert "OK" in bench.type("cd /mnt && sha256sum -c abboot/manifest.sha256; cd / && umount /mnt")
    confirmed = bench.abboot("confirm")
    assert (confirmed["verdict"], confirmed["action"]) == ("healthy", "committed")

    bench.cut()  # right after the acknowledgement (G5)
    assert bench.autoboot() == {"all": "3", "tryboot": "3"}
    bench.fsck("selector", "a", "b")
    assert bench.boot() == 3
    status = bench.abboot("status")
    assert (status["phase"], status["booted"], status["last_trial"]["outcome"]) == ("settled", "b", "committed")
    assert bench.abboot("verify")["ok"]
    assert "FAT-fs" not in bench.type("dmesg")


def test_the_next_update_goes_back_to_the_first_slot(make_bench: MakeBench) -> None:
    """The other direction is not the mirror image: partition 2 is what a damaged autoboot.txt means."""
    bench = make_bench(primary=Slot.B)
    assert bench.boot() == 3
    stage(bench)
    start_trial(bench)
    assert bench.autoboot() == {"all": "3", "tryboot": "2"}

    assert bench.boot() == 2
    assert bench.abboot("confirm")["action"] == "committed"
    bench.cut()

    assert bench.autoboot() == {"all": "2", "tryboot": "2"}
    assert bench.boot() == 2
    assert bench.abboot("status")["primary"] == "a"
    bench.fsck("selector", "a", "b")


DEAD_UPDATES = {
    "panics": ({"cmdline": {"panics": "1"}}, EndKind.PANIC),
    "hangs before userspace": ({"overlay": "hangs"}, EndKind.HUNG),
    "has no kernel": ({"drop": ["kernel8.img"]}, EndKind.HUNG),
}


@pytest.mark.parametrize("what", DEAD_UPDATES)
def test_an_update_that_never_comes_up_falls_back(bench: Bench, what: str) -> None:
    changes, ends = DEAD_UPDATES[what]
    stage_outside(bench, **changes)
    bench.boot()
    start_trial(bench)

    # Nobody types anything here: after a while the watchdog bites, if the kernel does not reset the board itself.
    run = bench.pi.switch_on()
    assert run.finish(timeout_s=20 if ends is EndKind.HUNG else BOOT_S).kind is ends

    assert bench.boot() == 2
    assert outcome(bench) == ("not_reached", "failed")
    assert bench.autoboot() == {"all": "2", "tryboot": "2"}


def test_an_update_without_firmware_is_passed_by_and_told_apart(bench: Bench) -> None:
    stage_outside(bench, drop=["start4.elf"])
    bench.boot()
    start_trial(bench)

    assert bench.boot() == 2  # the walk of the same power-on: the device tree says tryboot
    assert outcome(bench) == ("unbootable", "failed")


def test_a_health_check_that_fails_brings_the_primary_back(bench: Bench) -> None:
    stage_outside(bench, cmdline={"health": "unhealthy"})
    bench.boot()
    start_trial(bench)
    assert bench.boot() == 3

    end = bench.ends_with("abboot confirm")

    assert (end.kind, end.argument) == (EndKind.REBOOT, None)
    assert bench.boot() == 2
    assert outcome(bench) == ("reverted", "failed")
    bench.fsck("selector", "a", "b")


def test_a_slot_that_was_asked_for_by_number_is_no_trial(bench: Bench) -> None:
    stage_outside(bench)
    bench.boot()
    end = bench.ends_with("reboot-with 3")
    assert (end.kind, end.argument) == (EndKind.REBOOT, "3")

    assert bench.boot() == 3
    assert bench.abboot("status")["phase"] == "foreign"
    for verb in ("commit", "confirm", "trial"):
        assert "error" in bench.abboot(verb, status=1)
    assert bench.ends_with("reboot -f").argument is None

    assert bench.boot() == 2
    assert bench.abboot("status")["phase"] == "settled"


def test_a_damaged_autoboot_txt_is_repaired_from_the_journal(make_bench: MakeBench) -> None:
    """The firmware takes garbage for partition 2, whatever was the primary (H-15)."""
    bench = make_bench(primary=Slot.B)
    bench.write("selector", bench.offset_of("selector", b"[all]\n"), b"?" * 64)
    bench.pi.power_cycle()

    assert bench.boot() == 2
    assert bench.abboot("status")["phase"] == "foreign"
    assert bench.ends_with("abboot repair").kind is EndKind.REBOOT

    assert bench.autoboot() == {"all": "3", "tryboot": "3"}
    assert bench.boot() == 3
    assert bench.abboot("status")["phase"] == "settled"


def test_a_primary_without_a_boot_sector_is_walked_around_and_not_committed_away(bench: Bench) -> None:
    bench.write("a", 0, bytes(512))
    bench.pi.power_cycle()

    assert bench.boot() == 3
    status = bench.abboot("status")
    assert (status["phase"], status["booted"], status["primary"]) == ("foreign", "b", "a")
    assert "error" in bench.abboot("commit", status=1)
    assert bench.autoboot() == {"all": "2", "tryboot": "2"}


def test_a_commit_goes_through_the_mount_of_a_selector_that_is_mounted(bench: Bench) -> None:
    stage_outside(bench)
    bench.boot()
    start_trial(bench)
    assert bench.boot() == 3
    bench.type(f"mount -t vfat {NODE}1 /mnt")

    assert bench.abboot("confirm")["action"] == "committed"
    bench.cut()

    assert bench.autoboot() == {"all": "3", "tryboot": "3"}
    assert bench.boot() == 3
    assert bench.abboot("status")["phase"] == "settled"


def test_a_selector_that_is_mounted_read_only_is_refused_and_the_trial_falls_back(bench: Bench) -> None:
    stage_outside(bench)
    bench.boot()
    start_trial(bench)
    bench.boot()
    bench.type(f"mount -t vfat -o ro {NODE}1 /mnt")

    assert "read-only" in bench.abboot("commit", status=1)["error"]["message"]
    bench.cut()

    assert bench.boot() == 2
