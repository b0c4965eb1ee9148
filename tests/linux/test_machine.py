"""The volatile side of a board: flag, reboot, boot id, clock; below a sysroot nothing is really done."""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.errors import DeviceError
from abboot.linux.machine import SystemMachine
from abboot.linux.mailbox import (
    GET_REBOOT_FLAGS,
    IOCTL_MBOX_PROPERTY,
    SET_REBOOT_FLAGS,
    ask,
    decode_reply,
    encode_request,
)
from abboot.linux.reboot import syscall_number
from abboot.linux.sysroot import recorded_requests
from tests.linux.sysroots import BOOT_ID, make_sysroot

OK, ANSWERED = 0x80000000, 0x80000004


def test_a_request_is_laid_out_as_vcmailbox_sends_it() -> None:
    # vcmailbox 0x00038064 4 0 1
    assert encode_request(SET_REBOOT_FLAGS, 1) == struct.pack("=7I", 28, 0, 0x00038064, 4, 0, 1, 0)
    assert (0xC0086400 if struct.calcsize("P") == 8 else 0xC0046400) == IOCTL_MBOX_PROPERTY


@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_an_answered_tag_has_its_value(value: int) -> None:
    assert decode_reply(struct.pack("=7I", 28, OK, GET_REBOOT_FLAGS, 4, ANSWERED, value, 0), GET_REBOOT_FLAGS) == value


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((28, 0x80000001, GET_REBOOT_FLAGS, 4, ANSWERED, 1, 0), "status 0x80000001"),
        ((28, 0, GET_REBOOT_FLAGS, 4, 0, 1, 0), "status 0x00000000"),
        ((28, OK, GET_REBOOT_FLAGS, 4, 0, 1, 0), "does not know tag 0x00030064"),
        ((28, OK, GET_REBOOT_FLAGS, 4, 0x80000000, 1, 0), "does not know tag 0x00030064"),
        ((28, OK, SET_REBOOT_FLAGS, 4, ANSWERED, 1, 0), "for tag 0x00038064"),
    ],
)
def test_an_answer_that_is_none_is_not_believed(words: tuple[int, ...], found: str) -> None:
    with pytest.raises(DeviceError, match=found):
        decode_reply(struct.pack("=7I", *words), GET_REBOOT_FLAGS)


def test_an_unanswered_request_is_never_taken_for_an_answer() -> None:
    with pytest.raises(DeviceError):
        decode_reply(encode_request(GET_REBOOT_FLAGS, 1), GET_REBOOT_FLAGS)


@given(reply=st.one_of(st.binary(max_size=64), st.binary(min_size=28, max_size=28)))
def test_any_other_reply_is_one_clear_error(reply: bytes) -> None:
    with pytest.raises(DeviceError, match=r"^cannot use the firmware mailbox: "):
        decode_reply(reply, GET_REBOOT_FLAGS)


def test_below_a_sysroot_the_flag_is_kept_and_every_setting_recorded(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    mailbox = SystemMachine(root).mailbox

    before = mailbox.tryboot_flag()
    mailbox.set_tryboot_flag(True)
    armed = mailbox.tryboot_flag()
    mailbox.set_tryboot_flag(False)

    assert (before, armed, mailbox.tryboot_flag()) == (False, True, False)
    assert recorded_requests(root) == (
        {"request": "mailbox", "tag": "0x00038064", "value": 1},
        {"request": "mailbox", "tag": "0x00038064", "value": 0},
    )


@pytest.mark.parametrize("device", ["vcio", "vcio_ab"])
def test_either_mailbox_device_will_do(tmp_path: Path, device: str) -> None:
    root = make_sysroot(tmp_path, vcio=False)
    Path(root, "dev", device).touch()

    assert SystemMachine(root).mailbox.tryboot_flag() is False


def test_a_mainline_kernel_has_no_flag_to_ask_for(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, vcio=False)
    mailbox = SystemMachine(root).mailbox

    assert mailbox.tryboot_flag() is None
    with pytest.raises(DeviceError, match="cannot set the tryboot flag: no usable /dev/vcio") as caught:
        mailbox.set_tryboot_flag(True)
    assert "mainline kernel" in caught.value.hint
    assert recorded_requests(root) == ()


def test_a_pending_reboot_argument_is_seen_set_and_removed(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    rebooter = SystemMachine(root).rebooter
    file = Path(root, "run/systemd/reboot-param")

    nothing = rebooter.pending_argument()
    rebooter.set_argument("0 tryboot")
    content, pending = file.read_bytes(), rebooter.pending_argument()
    rebooter.clear_argument()
    rebooter.clear_argument()

    assert (nothing, content, pending) == (None, b"0 tryboot\n", "0 tryboot")
    assert not file.exists()
    assert list(file.parent.iterdir()) == [file.parent / "system"]


def test_an_argument_that_somebody_else_left_is_seen(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    Path(root, "run/systemd/reboot-param").write_text("3")

    assert SystemMachine(root).rebooter.pending_argument() == "3"


def test_without_systemd_no_argument_file_is_made(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, systemd=False)

    SystemMachine(root).rebooter.set_argument("0 tryboot")

    assert not Path(root, "run/systemd").exists()


@pytest.mark.parametrize("argument", ["", "0 tryboot\n3", "x" * 256, "a\0b"])
def test_what_reboot_cannot_carry_is_a_bug_of_the_caller(tmp_path: Path, argument: str) -> None:
    root = make_sysroot(tmp_path)

    with pytest.raises(ValueError, match="no reboot argument"):
        SystemMachine(root).rebooter.set_argument(argument)

    assert SystemMachine(root).rebooter.pending_argument() is None


def test_below_a_sysroot_a_reboot_is_recorded_with_its_argument(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)

    SystemMachine(root).rebooter.reboot("0 tryboot")

    assert recorded_requests(root) == ({"request": "reboot", "argument": "0 tryboot", "systemd": True},)
    assert SystemMachine(root).rebooter.pending_argument() == "0 tryboot"


def test_a_plain_reboot_carries_no_stale_argument(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    rebooter = SystemMachine(root).rebooter
    rebooter.set_argument("0 tryboot")

    rebooter.reboot(None)

    assert rebooter.pending_argument() is None
    assert recorded_requests(root)[-1] == {"request": "reboot", "argument": None, "systemd": True}


def test_a_link_out_of_the_sysroot_is_not_written_through(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path, systemd=False)
    outside = tmp_path / "outside"
    (outside / "systemd/system").mkdir(parents=True)
    (outside / "systemd/reboot-param").write_text("mine\n")
    Path(root, "run").rmdir()
    Path(root, "run").symlink_to(outside)
    machine = SystemMachine(root)

    changes: list[Callable[[], None]] = [
        lambda: machine.rebooter.set_argument("0 tryboot"),
        machine.rebooter.clear_argument,
        lambda: machine.rebooter.reboot("0 tryboot"),
        lambda: machine.mailbox.set_tryboot_flag(True),
    ]
    for change in changes:
        with pytest.raises(DeviceError, match="outside of"):
            change()

    assert sorted(path.name for path in outside.rglob("*")) == ["reboot-param", "system", "systemd"]
    assert (outside / "systemd/reboot-param").read_text() == "mine\n"


def test_lines_that_are_no_requests_are_skipped(tmp_path: Path) -> None:
    root = make_sysroot(tmp_path)
    SystemMachine(root).rebooter.reboot(None)
    with Path(root, "run/abboot/requests.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n[1]\n{}\n" + b"[" * 100_000 + b"\n")

    assert [entry["request"] for entry in recorded_requests(root)] == ["reboot"]


@pytest.mark.parametrize(
    ("machine", "pointer_size", "number"),
    [
        ("x86_64", 8, 169),
        ("aarch64", 8, 142),
        ("aarch64", 4, 88),  # Raspberry Pi OS, 32 bit, on its 64-bit kernel
        ("armv7l", 4, 88),
        ("armv6l", 4, 88),
        ("i686", 4, 88),
        ("sparc64", 8, None),
    ],
)
def test_reboot_has_the_number_of_the_userland_and_not_of_the_kernel(
    machine: str, pointer_size: int, number: int | None
) -> None:
    assert syscall_number(machine, pointer_size) == number


def test_the_boot_id_names_this_boot(tmp_path: Path) -> None:
    assert SystemMachine(make_sysroot(tmp_path)).boot_id() == BOOT_ID
    assert SystemMachine().boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.mark.parametrize("text", ["", "x", BOOT_ID.upper(), BOOT_ID + "0"])
def test_a_boot_id_that_is_none_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(DeviceError, match="cannot read the boot id: "):
        SystemMachine(make_sysroot(tmp_path, boot_id=text)).boot_id()


def test_the_clock_counts_from_this_boot() -> None:
    clock = SystemMachine().clock
    first = clock.boottime_s()
    clock.sleep(0.01)

    assert 0 < first < clock.boottime_s()
    assert abs(clock.realtime_s() - time.time()) < 60
    assert abs(first - float(Path("/proc/uptime").read_text().split()[0])) < 60


# -- a mailbox that is no good -----------------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path: Path) -> str:
    """Something that can be opened; what it answers is up to the test."""
    (tmp_path / "vcio").touch()
    return str(tmp_path / "vcio")


def answering(status: int = OK, tag_status: int = ANSWERED, value: int = 1) -> Callable[[int, bytearray], None]:
    def call(_fd: int, buffer: bytearray) -> None:
        words = list(struct.unpack("=7I", buffer))
        words[1], words[4], words[5] = status, tag_status, value
        buffer[:] = struct.pack("=7I", *words)

    return call


def failing(number: int) -> Callable[[int, bytearray], None]:
    def call(_fd: int, _buffer: bytearray) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_the_answer_is_what_the_firmware_wrote_into_the_buffer(device: str) -> None:
    assert ask([device], GET_REBOOT_FLAGS, 0, call=answering(value=1)) == 1


def test_a_firmware_that_answers_an_error_is_one_clear_error(device: str) -> None:
    with pytest.raises(DeviceError, match="cannot use the firmware mailbox: status 0x80000001"):
        ask([device], GET_REBOOT_FLAGS, 0, call=answering(status=0x80000001))


@pytest.mark.parametrize("number", [errno.ETIMEDOUT, errno.EIO, errno.ENOTTY])
def test_a_driver_that_gives_up_is_one_clear_error(device: str, number: int) -> None:
    with pytest.raises(DeviceError, match=f"(?i)^cannot use {re.escape(device)}: {os.strerror(number)}$") as caught:
        ask([device], GET_REBOOT_FLAGS, 0, call=failing(number))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_device_that_lets_the_tag_not_through_is_passed_by(device: str, tmp_path: Path) -> None:
    other = tmp_path / "vcio_ab"
    other.touch()
    asked = []

    def call(fd: int, buffer: bytearray) -> None:
        asked.append(os.readlink(f"/proc/self/fd/{fd}"))
        if len(asked) == 1:
            raise PermissionError(errno.EPERM, "not this tag")
        answering(value=0)(fd, buffer)

    assert ask([str(other), device], GET_REBOOT_FLAGS, 0, call=call) == 0
    assert asked == [str(other), device]


def test_a_firmware_that_never_answers_is_not_waited_for(device: str) -> None:
    never, begun = threading.Event(), time.monotonic()

    with pytest.raises(DeviceError, match=r"the firmware gave no answer in 0\.05 s"):
        ask([device], GET_REBOOT_FLAGS, 0, call=lambda _fd, _buffer: never.wait(30) and None, timeout_s=0.05)

    assert time.monotonic() - begun < 5
    never.set()


def test_no_device_is_no_answer(tmp_path: Path) -> None:
    assert ask([str(tmp_path / "vcio")], GET_REBOOT_FLAGS, 0) is None


def test_a_file_that_is_no_mailbox_is_an_error(device: str) -> None:
    with pytest.raises(DeviceError, match="inappropriate ioctl"):
        ask([device], GET_REBOOT_FLAGS, 0)
