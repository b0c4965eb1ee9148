"""Whether this is a moment to write or to reboot: the supply voltage, and who holds an inhibitor lock."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.linux.inhibitors import parse_inhibitors, shutdown_inhibitors
from abboot.linux.machine import SystemMachine
from tests.linux.sysroots import make_sysroot

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"


def with_file(tmp_path: Path, path: str, text: str | bytes) -> str:
    root = make_sysroot(tmp_path)
    place = Path(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("0\n", False),
        ("1\n", True),
        ("50005\n", True),
        ("50000\n", False),  # it happened since the boot, and is over
        ("0x50005\n", True),
        ("4\n", False),  # throttled by heat
        ("", None),
        ("low\n", None),
        (b"\xff\0", None),
    ],
)
def test_only_under_voltage_now_counts(tmp_path: Path, text: str | bytes, *, low: bool | None) -> None:
    assert SystemMachine(with_file(tmp_path, THROTTLED, text)).under_voltage() is low


@pytest.mark.parametrize(("alarm", "low"), [("0\n", False), ("1\n", True), ("?\n", None)])
def test_a_mainline_kernel_tells_through_hwmon(tmp_path: Path, alarm: str, *, low: bool | None) -> None:
    root = with_file(tmp_path, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    Path(root, "sys/class/hwmon/hwmon0").mkdir()
    Path(root, "sys/class/hwmon/hwmon0/name").write_text("cpu_thermal\n")
    Path(root, "sys/class/hwmon/hwmon0/in0_lcrit_alarm").write_text("1\n")
    Path(root, "sys/class/hwmon/hwmon1/in0_lcrit_alarm").write_text(alarm)

    assert SystemMachine(root).under_voltage() is low


def test_where_nobody_tells_nothing_is_known(tmp_path: Path) -> None:
    assert SystemMachine(make_sysroot(tmp_path)).under_voltage() is None


# As `busctl --json=short` prints an answer of the type a(ssssuu): one array for each struct.
ANSWER = {
    "type": "a(ssssuu)",
    "data": [
        [
            ["sleep", "ModemManager", "ModemManager needs to reset devices", "delay", 0, 812],
            ["shutdown:sleep", "Unattended Upgrades Shutdown", "Stop ongoing upgrades", "delay", 0, 990],
            ["handle-power-key:handle-suspend-key", "gdm", "it handles keys", "block", 115, 1200],
            ["shutdown:idle", "recorder", "a recording is running", "block", 1000, 4321],
            ["shutdown", "packagekit\x1b[2J", "", "block-weak", 0, 77],
        ]
    ],
}


def test_only_locks_that_block_a_shutdown_count() -> None:
    held = parse_inhibitors(json.dumps(ANSWER).encode())

    assert [str(lock) for lock in held] == [
        "recorder (process 4321): a recording is running",
        "packagekit [2J (process 77): it does not say",
    ]


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]", b'{"data": 1}', b'{"data": [[1, ["shutdown"], {"a": 1}]]}', b'{"data": [7]}', b"[" * 100_000],
)
def test_what_is_no_answer_blocks_nothing(answer: bytes) -> None:
    assert parse_inhibitors(answer) == ()


@given(
    rows=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["shutdown", "block"]),
        lambda inner: st.lists(inner, max_size=6),
        max_leaves=20,
    )
)
def test_any_answer_is_read_without_an_error(rows: object) -> None:
    assert isinstance(parse_inhibitors(json.dumps({"data": [rows]}).encode()), tuple)


def test_below_a_sysroot_nobody_is_asked(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    bus = Path(root, "run/dbus")
    bus.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(bus / "b"))

        assert shutdown_inhibitors(root) == ()
        assert SystemMachine(root).rebooter.inhibitors() == ()
