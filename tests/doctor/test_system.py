"""What systemd and the kernel tell, read out of their own words."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.doctor import examine, examine_disk, judge
from abboot.doctor.facts import Card, Facts, System
from abboot.doctor.gather_system import dropped_jobs, never_started, time_span_s
from abboot.manager import BootManager
from tests.doctor.bench import PI4, Bench, found, with_units

CYCLE = """\
sysinit.target: Found ordering cycle on abboot-note-boot.service/start
sysinit.target: Found dependency on sysinit.target/start
sysinit.target: Job abboot-note-boot.service/start deleted to break ordering cycle starting with sysinit.target/start
foo.service: Job foo.service/start deleted to break ordering cycle starting with bar.service/start
"""


def test_a_job_that_systemd_deleted_is_found_in_the_journal() -> None:
    (line,) = dropped_jobs(CYCLE)

    assert line.startswith("in this boot: sysinit.target: Job abboot-note-boot.service/start deleted")
    assert dropped_jobs("Started abboot-confirm.service\nReached target multi-user.target\n") == []


@pytest.mark.parametrize(
    ("state", "started", "condition", "expected"),
    [
        ("enabled", "0", "yes", True),
        ("enabled", "0", "", True),
        ("enabled", "8123456", "yes", False),
        ("disabled", "0", "yes", False),
        ("enabled", "0", "no", False),  # its condition kept it out, which is no accident
    ],
)
def test_an_enabled_unit_that_this_boot_left_out_is_told(
    state: str, started: str, condition: str, expected: bool
) -> None:
    told = f"UnitFileState={state}\nConditionResult={condition}\nInactiveExitTimestampMonotonic={started}\n"

    assert never_started(told) is expected


@pytest.mark.needs("systemd-analyze", "mcopy")
def test_an_ordering_cycle_of_the_confirm_unit_is_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with_units(bench)
    bench.files["etc/systemd/system/abboot-confirm.service.d/10-mistake.conf"] = (
        "[Unit]\nBefore=sysinit.target\nAfter=multi-user.target\n"
    )

    told = found(bench.report(), "H-38")

    assert [finding.found for finding in told if "cycle" in finding.found] != []


@pytest.mark.needs("systemd-analyze")
def test_a_confirm_unit_whose_program_is_missing_is_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with_units(bench)
    bench.after.append(lambda root: (root / "usr/bin/abboot").unlink())

    (told, *_more) = found(bench.report(), "H-38")

    assert "/usr/bin/abboot is not executable" in told.found


def test_units_that_are_not_installed_are_not_judged(tmp_path: Path) -> None:
    report = Bench(tmp_path).report()

    assert report.unseen["H-38"] == "abboot's units are not installed: `abboot install-units`"
    rows = {row.failure: row for row in report.recovery}
    assert rows["the health check never runs"].comes_back is False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15", 15.0),
        ("15s", 15.0),
        (" 1min 30s ", 90.0),
        ("2m", 120.0),
        ("500ms", 0.5),
        ("1.5h", 5400.0),
        ("10 sec", 10.0),
        ("off", 0.0),
        ("0", 0.0),
        ("default", None),
        ("soon", None),
        ("", None),
        ("15x", None),
    ],
)
def test_time_spans_are_read_as_systemd_reads_them(text: str, seconds: float | None) -> None:
    found_s = time_span_s(text)

    assert found_s is None if seconds is None else found_s is not None and math.isclose(found_s, seconds)


@given(st.text(max_size=40))
def test_any_text_is_a_time_span_or_none(text: str) -> None:
    seconds = time_span_s(text)

    assert seconds is None or seconds >= 0


def _watchdog(bench: Bench) -> str:
    rows = {row.failure: row for row in bench.report().recovery}
    return rows["the service manager hangs later"].by


def test_the_last_drop_in_decides_and_etc_hides_one_of_the_same_name(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.files |= {
        "etc/systemd/system.conf.d/50-watchdog.conf": None,
        "etc/systemd/system.conf": "[Manager]\nRuntimeWatchdogSec=14\n",
        "usr/lib/systemd/system.conf.d/10.conf": "[Manager]\nRuntimeWatchdogSec=13\n",
        "usr/lib/systemd/system.conf.d/20.conf": "[Manager]\nRuntimeWatchdogSec=12\n",
        "etc/systemd/system.conf.d/20.conf": "[Manager]\n# nothing\n",
    }

    assert _watchdog(bench) == "RuntimeWatchdogSec=13s"


def test_without_any_setting_the_watchdog_is_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.files |= {
        "etc/systemd/system.conf.d/50-watchdog.conf": None,
        "etc/systemd/system.conf": "[Manager]\n#RuntimeWatchdogSec=off\n",
    }

    assert "a person" in _watchdog(bench)


# -- what is not this system's ----------------------------------------------------------------------------------------


def test_offline_the_system_is_not_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.files["run/systemd/reboot-param"] = "0 tryboot\n"
    root = bench.sysroot()

    with BootManager.from_system(root) as manager:
        asked, offline = examine(manager, sysroot=root), examine_disk(manager)

    assert found(asked, "H-12") != ()
    assert found(offline, "H-12") == ()
    assert offline.unseen["H-12"] == "no running system was looked at"


def test_an_image_is_looked_at_without_a_board(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    with BootManager.open(bench.card) as manager:
        report = examine(manager)

    assert report.ok
    assert {"H-02", "H-14", "H-18", "H-34"} <= set(report.clear)
    assert {"H-01", "H-12", "H-29", "H-38"} <= set(report.unseen)
    assert report.trial == "slot b"


def test_looking_writes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    root = bench.sysroot()
    before = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} | {
        bench.card: bench.card.stat().st_mtime_ns
    }

    with BootManager.from_system(root) as manager:
        examine(manager, sysroot=root)

    after = {path: path.stat().st_mtime_ns for path in Path(root).rglob("*")} | {
        bench.card: bench.card.stat().st_mtime_ns
    }
    assert after == before


# -- hostile and broken -----------------------------------------------------------------------------------------------


def test_a_disk_without_partitions_is_a_note_and_no_crash(tmp_path: Path) -> None:
    image = tmp_path / "blank.img"
    image.write_bytes(bytes(1 << 20))

    with BootManager.open(image) as manager:
        report = examine(manager)

    assert report.findings == ()
    assert [note.partition(" of ")[0] for note in report.notes] == ["cannot read the partition table"]
    assert report.clear == ()


def test_nothing_is_called_stale_where_nobody_can_tell_what_is_armed() -> None:
    card = Card(name="card", problem="cannot find the slots on card")

    report = judge(Facts(card=card, system=System(flag=True, argument="0 tryboot")))

    assert found(report, "H-12") == ()
    assert report.unseen["H-12"] == "cannot find the slots on card"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_partition_that_is_gone_hides_nothing_else(number: int, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    name = {1: "selector", 2: "a", 3: "b"}[number]
    bench.patch(bench.start(name), bytes(512))
    bench.files["run/systemd/reboot-param"] = "0 tryboot\n"

    report = bench.report()

    assert found(report, "H-12") != ()
    assert report.notes != () or found(report, "H-15") != ()


def test_files_of_a_hostile_sysroot_are_no_reason_to_fail(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    noise = bytes(range(256)) * 40
    for path in (
        "proc/cpuinfo",
        "proc/cmdline",
        "proc/sys/kernel/osrelease",
        "run/systemd/reboot-param",
        "sys/bus/nvmem/devices/blconfig0/nvmem",
        "sys/class/watchdog/watchdog0/state",
        "etc/systemd/system.conf",
        "etc/kernel/postinst.d/zz",
        "proc/device-tree/chosen/bootloader/signed",
    ):
        bench.files[path] = noise
    bench.board(PI4 + "\x1b[2J")

    report = bench.report()

    assert all(finding.found.isprintable() for finding in report.findings)


def test_a_fifo_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.files |= {"proc/kallsyms": None, "etc/kernel/postinst.d/zz": None}
    bench.settings["vcio"] = False

    def fifos(root: Path) -> None:
        (root / "etc/kernel/postinst.d").mkdir(parents=True, exist_ok=True)
        os.mkfifo(root / "etc/kernel/postinst.d/zz")
        os.mkfifo(root / "proc/kallsyms")

    bench.after.append(fifos)

    assert found(bench.report(), "H-29") != ()
