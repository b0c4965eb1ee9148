"""EmulatedPi: a card image booted for real, Linux and all, by QEMU under a program that plays the firmware.

The firmware's part is what :class:`~abboot.simulator.pi.SimulatedPi` plays: which partition boots, with which flag, and
what a reset leaves (:mod:`abboot.core.firmware`).  This module does the rest of a boot loader's work: it takes kernel,
initramfs, device tree and command line out of the chosen partition, writes ``/chosen/bootloader`` into the device tree,
starts the kernel in QEMU with the image as its disk, and reads on the console how that ended.

    with EmulatedPi("card.img", transcript="boot.txt") as pi:
        run = pi.switch_on()
        run.wait_for(r"login: ", timeout_s=120)
        run.send("root")
        run.cut_power()                       # SIGKILL: what was not written is lost
        pi.boot.partition, pi.boot.why

Rules:

* QEMU writes to the image.  Give it a copy (:func:`copy_card`): an SD card of QEMU has a power of two as its size.
* A guest never outlives its :class:`Run`, and every wait has an end.
* ``reboot: Restarting system with command '0 tryboot'`` on the console is the channel for the flag, whatever the
  kernel: a mainline kernel would pass nothing on (H-29), and QEMU's firmware mailbox knows no flag.
* The host keeps what the guest's disk acknowledged: a power cut loses nothing of that, and keeps the order.

Sources: QEMU documentation, "Raspberry Pi boards"; Raspberry Pi documentation, ``config.txt`` (``kernel``,
``initramfs``, ``auto_initramfs``, ``cmdline``, ``device_tree``, ``os_prefix``, conditional filters) and
``chosen/bootloader``; Linux kernel/reboot.c for the last words of a system.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import attrs

from abboot.core.firmware import Board, Boot, Family, ResetKind
from abboot.errors import AbbootError
from abboot.linux.sysroot import device_error
from abboot.simulator.pi import SimulatedPi

_MAX_TEXT = 64 << 10
_MAX_FILE = 256 << 20
_MAX_CONSOLE = 16 << 20  # characters of one boot; a guest that prints more is ended


class EmulatorError(AbbootError):
    """The emulator or a tool that it needs is missing or failed, or the guest did not do what was waited for."""


class Machine(enum.StrEnum):
    """What QEMU emulates.  Each says another kind of disk in ``boot-mode``, as a Pi would."""

    RASPI3B = "raspi3b"  # a Pi 3 with its SD host controller; QEMU has no Pi 4 that a mainline kernel boots on
    VIRT = "virt"  # no Pi at all, but fast: the card is a SCSI disk, behind virtio


@attrs.frozen(kw_only=True)
class _Hardware:
    options: tuple[str, ...]
    disk: tuple[str, ...]  # the device in front of the block node "card"
    serial: tuple[str, ...]
    append: str
    boot_mode: int
    device_trees: tuple[str, ...]  # default names, the first that is there; none: QEMU's own


_HARDWARE: Mapping[Machine, _Hardware] = {
    Machine.RASPI3B: _Hardware(
        # Parked CPUs spin, so there is one; QEMU insists on 4 in -smp.
        options=("-M", "raspi3b", "-global", "bcm2837.enabled-cpus=1"),
        disk=("-device", "sd-card,drive=card"),
        serial=("-serial", "null", "-serial", "stdio"),  # the mini UART is the console of Debian's device tree
        append="console=ttyS1,115200 nosmp",
        boot_mode=1,
        device_trees=("bcm2837-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb"),
    ),
    Machine.VIRT: _Hardware(
        options=("-M", "virt", "-cpu", "cortex-a53", "-smp", "1", "-m", "512"),
        disk=("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=card"),
        serial=("-serial", "stdio"),
        append="console=ttyAMA0",
        boot_mode=4,
        device_trees=(),
    ),
}


class EndKind(enum.StrEnum):
    """How a run ended."""

    REBOOT = "reboot"
    POWER_OFF = "power_off"
    PANIC = "panic"
    RESET = "reset"  # without a word: a watchdog
    HUNG = "hung"  # it came to no end, and the watchdog was played
    POWER_CUT = "power_cut"


_RESETS: Mapping[EndKind, ResetKind] = {
    EndKind.REBOOT: ResetKind.REBOOT,
    EndKind.POWER_OFF: ResetKind.POWER_CUT,
    EndKind.PANIC: ResetKind.PANIC,
    EndKind.RESET: ResetKind.WATCHDOG,
    EndKind.HUNG: ResetKind.WATCHDOG,
    EndKind.POWER_CUT: ResetKind.POWER_CUT,
}

# The last words of a system.  After a panic it may find no way to restart the board: then a driver of this machine is
# missing, and the kernel of a Pi would have restarted it.  Without `panic=` it waits for ever, on a Pi as well.
_RESTARTING = re.compile(r"reboot: Restarting system(?: with command '([^'\n]*)')?")
_POWER_DOWN = re.compile(r"reboot: (?:Power down|System halted)")
_PANIC = re.compile(r"Kernel panic - not syncing")
_NOT_RESTARTED = re.compile(r"Reboot failed -- System halted")
_WAITS = re.compile(r"end Kernel panic - not syncing")


@attrs.frozen(kw_only=True)
class End:
    """How a run ended; ``argument`` is that of reboot(2)."""

    kind: EndKind
    argument: str | None = None


class EmulatedPi:
    """A Raspberry Pi whose card is an image and whose kernel is run.  It is off until :meth:`switch_on`.

    Args:
        image: the card; it is written to.
        board: what the firmware model takes it for, and what the kernel is told; ``None``: a Pi 4 with the newest
            bootloader.  The kernel finds a Pi 3's devices all the same.
        machine: what QEMU emulates.
        transcript: a file that everything is appended to that the firmware and the console say.
        append: more words for the kernel's command line, behind those of ``cmdline.txt``.

    Raises:
        EmulatorError: the image's size is no power of two.
        Damaged: it has no partition table.
        DeviceError: it cannot be opened.
    """

    def __init__(
        self,
        image: str | os.PathLike[str],
        *,
        board: Board | None = None,
        machine: Machine = Machine.RASPI3B,
        transcript: str | os.PathLike[str] | None = None,
        append: str = "",
    ) -> None:
        self._image = os.path.abspath(image)
        size = os.path.getsize(self._image) if os.path.exists(self._image) else 0
        if machine is Machine.RASPI3B and size.bit_count() != 1:
            raise EmulatorError(
                f"cannot use {self._image} as an SD card: it has {size} bytes, and QEMU wants a power of two",
                "use a copy that was made with abboot.simulator.emulator.copy_card",
            )
        self._machine, self._append = machine, append
        self._run: Run | None = None
        try:
            self._transcript = open(transcript, "a", encoding="utf-8") if transcript is not None else None  # noqa: SIM115
        except OSError as error:
            raise device_error("write", str(transcript), error) from error
        self._pi = SimulatedPi(self._image, board=board)
        self._work = tempfile.TemporaryDirectory(prefix="abboot-emulator-")

    @property
    def boot(self) -> Boot:
        """What the firmware does at the next :meth:`switch_on`, or did at the last one while that runs."""
        return self._pi.boot

    @property
    def image(self) -> str:
        return self._image

    def say(self, line: str) -> None:
        """A line of one's own for the transcript."""
        if self._transcript is not None:
            self._transcript.write(f"{line}\n")
            self._transcript.flush()

    def switch_on(self, *, record: Path | None = None, state: Path | None = None) -> Run:
        """Boot what the firmware chose.

        Args:
            record: write every write of the guest to this file, for :class:`abboot.simulator.recording.Recording`.
            state: go on from this saved state (:meth:`Run.save`) instead of booting; the image is as it was then.

        Raises:
            EmulatorError: it runs already, the chosen partition has no such kernel, or QEMU cannot be started.
        """
        if self._run is not None:
            raise EmulatorError("cannot switch the emulated Pi on: it is on")
        boot = self._pi.boot
        for reason in boot.why:
            self.say(f"[firmware] {reason}")
        if boot.partition is None:
            command = None
        else:
            command = self._command(boot, record)
            if state is not None:
                command += ["-incoming", f"exec:cat {shlex.quote(str(state))}"]
        self._run = Run(self, command)
        return self._run

    @property
    def monitor(self) -> str:
        """The socket on which QEMU takes commands (QMP)."""
        return os.path.join(self._work.name, "qmp")

    def power_cycle(self) -> None:
        """Off and on again, if it is on; then a cold boot is next."""
        if self._run is not None:
            self._run.cut_power()
        else:
            self._pi.power_cut()

    def close(self) -> None:
        """Cut the power; forget everything but the image."""
        if self._run is not None:
            self._run.cut_power()
        self._pi.close()
        self._work.cleanup()
        if self._transcript is not None:
            self._transcript.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the firmware's work ------------------------------------------------------------------------------------

    def _ended(self, end: End) -> None:
        self._run = None
        self.say(f"[firmware] the system ended: {end.kind}" + (f" {end.argument!r}" if end.argument else ""))
        match _RESETS[end.kind]:
            case ResetKind.REBOOT:
                self._pi.reboot(end.argument)
            case ResetKind.PANIC:
                self._pi.panic()
            case ResetKind.WATCHDOG:
                self._pi.watchdog_reset()
            case ResetKind.POWER_CUT:
                self._pi.power_cut()

    def _command(self, boot: Boot, record: Path | None) -> list[str]:
        hardware = _HARDWARE[self._machine]
        settings = self._settings(boot)
        prefix = settings.get("os_prefix", "")
        kernel = self._unpack("kernel", prefix, settings.get("kernel", "kernel8.img"))
        if kernel is None:
            raise EmulatorError(
                f"cannot boot partition {boot.partition}: config.txt asks for {settings.get('kernel', 'kernel8.img')}, "
                "and there is no such file"
            )
        cmdline = self._file(prefix, settings.get("cmdline", "cmdline.txt"), _MAX_TEXT) or b""
        words = cmdline.decode("utf-8", "replace").split("\n")[0].strip()
        if shutil.which("qemu-system-aarch64") is None:
            raise EmulatorError("cannot run qemu-system-aarch64: it is not installed", "Debian: qemu-system-arm")
        command = ["qemu-system-aarch64", *hardware.options, "-nodefaults", "-no-user-config", "-no-reboot"]
        command += ["-display", "none", "-monitor", "none", *hardware.serial]
        command += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        command += ["-kernel", kernel, "-append", " ".join(filter(None, (words, hardware.append, self._append)))]
        initramfs = settings.get("initramfs") or ("initramfs8" if settings.get("auto_initramfs") == "1" else None)
        if initramfs is not None and (path := self._unpack("initramfs", prefix, initramfs)) is not None:
            command += ["-initrd", path]
        command += ["-dtb", self._device_tree(boot, prefix, settings)]
        return [*command, *self._blocks(record), *hardware.disk]

    def _settings(self, boot: Boot) -> dict[str, str]:
        text = self._file("", boot.config, _MAX_TEXT) if boot.config else None
        return read_config_txt((text or b"").decode("utf-8", "replace"), self._pi.board, tryboot=boot.tryboot)

    def _file(self, prefix: str, name: str, limit: int) -> bytes | None:
        return self._pi.booted_file(f"{prefix}{name}".lstrip("/"), limit)

    def _unpack(self, what: str, prefix: str, name: str) -> str | None:
        content = self._file(prefix, name, _MAX_FILE)
        if content is None:
            return None
        path = os.path.join(self._work.name, what)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def _device_tree(self, boot: Boot, prefix: str, settings: Mapping[str, str]) -> str:
        hardware = _HARDWARE[self._machine]
        path: str | None
        if hardware.device_trees:
            names = [settings["device_tree"]] if "device_tree" in settings else list(hardware.device_trees)
            found = (self._unpack("device-tree", prefix, name) for name in names)
            path = next(filter(None, found), None)
            if path is None:
                raise EmulatorError(
                    f"cannot boot partition {boot.partition}: it has no device tree for a {self._machine}: {names}",
                    "config.txt may name another one with device_tree=",
                )
        else:
            path = os.path.join(self._work.name, "device-tree")
            words = list(hardware.options)
            words[words.index("-M") + 1] += f",dumpdtb={path}"
            _tool(["qemu-system-aarch64", *words, "-display", "none", "-nodefaults"])
        report = self._pi.boot_report
        cells = {
            "partition": report.partition,
            "tryboot": int(bool(report.tryboot)),
            "boot-mode": hardware.boot_mode,
            "rsts": report.rsts,
            "build-timestamp": report.build_timestamp,
        }
        _tool(["fdtput", "-p", "-c", path, "/chosen/bootloader"])
        for name, value in cells.items():
            if value is not None:
                _tool(["fdtput", "-t", "x", path, "/chosen/bootloader", name, f"{value:x}"])
        if report.model:
            _tool(["fdtput", "-t", "s", path, "/", "model", report.model])
        # As the real firmware does: without it the kernel has no random numbers for many seconds.
        _tool(["fdtput", "-t", "x", path, "/chosen", "rng-seed", *(f"{cell:x}" for cell in _random_cells())])
        return path

    def _blocks(self, record: Path | None) -> list[str]:
        # No flush reaches the host's disk: the host does not lose its power.
        file = f"driver=file,filename={_quoted(self._image)},cache.no-flush=on"
        if record is None:
            return ["-blockdev", f"{file},node-name=file", "-blockdev", "driver=raw,file=file,node-name=card"]
        with open(record, "wb"):
            pass
        return [
            *("-blockdev", f"{file},node-name=file", "-blockdev", "driver=raw,file=file,node-name=raw"),
            *("-blockdev", f"driver=file,filename={_quoted(str(record))},cache.no-flush=on,node-name=log"),
            *("-blockdev", "driver=blklogwrites,file=raw,log=log,log-sector-size=512,node-name=card"),
        ]


class Run:
    """One boot of an :class:`EmulatedPi`, from power on to its end."""

    def __init__(self, pi: EmulatedPi, command: list[str] | None) -> None:
        self._pi = pi
        self._text = ""
        self._pending = ""  # the last line, as far as it is there
        self._end: End | None = None
        self._says = End(kind=EndKind.RESET)  # how it ends, by its own words so far
        self._over = False  # nothing will come any more, and QEMU does not end by itself
        self._process = _start(command) if command is not None else None

    @property
    def console(self) -> str:
        """Everything that the console said so far; lines end with a newline."""
        return self._text

    @property
    def end(self) -> End | None:
        """How it ended; ``None`` while it runs."""
        return self._end

    def wait_for(
        self, pattern: str, *, timeout_s: float, since: int = 0, until: Callable[[], bool] | None = None
    ) -> re.Match[str] | None:
        """Wait until the console says ``pattern``.

        Args:
            pattern: a regular expression, matched against everything from character ``since`` on.
            timeout_s: real time.
            since: an earlier ``len(run.console)``.
            until: asked every millisecond; when it says true, the wait is over, and the answer is ``None``.

        Raises:
            EmulatorError: it ended, or the time is up: then it still runs.
        """
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        while (found := wanted.search(self._text, since)) is None:
            if until is not None and until():
                return None
            now = time.monotonic()
            if self.end is not None or now >= deadline:
                last = "\n".join(self._text.splitlines()[-40:])
                how = f"it ended ({self.end.kind})" if self.end else f"{timeout_s:.0f} s passed"
                raise EmulatorError(f"cannot see {pattern!r} on the console: {how}; its last lines:\n{last}")
            self._read(0.001 if until else deadline - now)
        return found

    def send(self, line: str) -> None:
        """Type a line on the console."""
        self.type(f"{line}\n".encode())

    def type(self, data: bytes) -> None:
        """Type on the console."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(data)
                self._process.stdin.flush()

    def finish(self, *, timeout_s: float) -> End:
        """Wait for the end; after ``timeout_s`` the hardware watchdog is played."""
        deadline = time.monotonic() + timeout_s
        while self._end is None:
            now = time.monotonic()
            if self._process is None or now >= deadline:
                self._stop(End(kind=EndKind.HUNG))
            else:
                self._read(deadline - now)
        return self._end

    def cut_power(self) -> None:
        """SIGKILL.  The next boot is a cold one."""
        if self._end is None:
            self._stop(End(kind=EndKind.POWER_CUT))

    def save(self, path: Path) -> None:
        """Write memory and devices to a file, for :meth:`EmulatedPi.switch_on`; then the power is cut.

        The image is not in it: copy it afterwards.

        Raises:
            EmulatorError: QEMU could not.
        """
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(60)
            monitor.connect(self._pi.monitor)
            lines = monitor.makefile("r", encoding="utf-8")

            def ask(command: str, **arguments: str) -> Mapping[str, str]:
                monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
                for line in lines:
                    answer = json.loads(line)
                    if "error" in answer:
                        raise EmulatorError(f"cannot save the emulated Pi: {answer['error']['desc']}")
                    if "return" in answer:
                        return dict(answer["return"])
                raise EmulatorError("cannot save the emulated Pi: QEMU ended")

            ask("qmp_capabilities")
            ask("migrate", uri=f"exec:cat > {shlex.quote(str(path))}")
            while (status := ask("query-migrate").get("status")) not in ("completed", "failed"):
                time.sleep(0.05)
        if status == "failed":
            raise EmulatorError("cannot save the emulated Pi: QEMU failed to write its state")
        self.cut_power()

    def fileno(self) -> int:
        """What becomes readable when the console says something; -1 where nothing runs."""
        return self._process.stdout.fileno() if self._process is not None and self._process.stdout else -1

    def read(self) -> str:
        """What the console said since the last look, without waiting; ``""`` also at the end."""
        before = len(self._text)
        self._read(0)
        return self._text[before:]

    # -- inside -------------------------------------------------------------------------------------------------

    def _read(self, timeout_s: float) -> None:
        """Take what the console says; wait for it that long."""
        process = self._process
        if process is None or process.stdout is None or not select.select([process.stdout], [], [], timeout_s)[0]:
            return
        data = os.read(process.stdout.fileno(), 1 << 16)
        self._take(data.decode("utf-8", "backslashreplace"))
        if not data:
            self._stop(self._says)
        elif self._over or len(self._text) > _MAX_CONSOLE:
            self._stop(self._says if self._over else End(kind=EndKind.HUNG))

    def _take(self, text: str) -> None:
        text = text.replace("\r", "")
        self._text += text
        *lines, self._pending = (self._pending + text).split("\n")
        for line in lines:
            self._pi.say(line)
            self._listen(line)

    def _listen(self, line: str) -> None:
        if _NOT_RESTARTED.search(line):
            self._over = self._says.kind is EndKind.PANIC
        elif _WAITS.search(line):
            self._says, self._over = End(kind=EndKind.HUNG), True
        elif _PANIC.search(line):
            self._says = End(kind=EndKind.PANIC)
        elif found := _RESTARTING.search(line):
            self._says = End(kind=EndKind.REBOOT, argument=found[1])
        elif _POWER_DOWN.search(line):
            self._says = End(kind=EndKind.POWER_OFF)

    def _stop(self, end: End) -> None:
        """From here on nothing runs."""
        process, self._process = self._process, None
        status = 0
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                # After the end of its output QEMU needs a moment; a power cut gives it none.
                status = process.wait(10 if end is self._says and not self._over else 0)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._pending:
            self._pi.say(self._pending)
            self._pending = ""
        self._end = end
        self._pi._ended(end)
        if status:
            last = self._text.strip().splitlines()[-3:]
            raise EmulatorError(f"cannot run the emulated Pi: QEMU ended with {status}: {'; '.join(last)}")


# -- helpers ----------------------------------------------------------------------------------------------------------


def read_config_txt(text: str, board: Board, *, tryboot: bool) -> dict[str, str]:
    """The settings of a ``config.txt`` that hold for this board; the last one of a name wins.

    ``initramfs NAME followkernel`` has no ``=``.  Filters that are not known here, such as those for a serial number,
    count as not met.
    """
    family = {Family.PI0_3: "pi3", Family.PI4: "pi4", Family.PI5: "pi5"}[board.family]
    met = {"all", family} | ({"tryboot"} if tryboot else set())
    found: dict[str, str] = {}
    counts = True
    for raw in text.splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            counts = line[1:-1].strip().lower() in met
        elif counts and line and not line.startswith("#"):
            name, equals, value = line.partition("=")
            if equals:
                found[name.strip()] = value.strip()
            elif (words := line.split())[0] == "initramfs" and len(words) > 1:
                found["initramfs"] = words[1]
    return found


def copy_card(image: str | os.PathLike[str], to: str | os.PathLike[str]) -> None:
    """A copy of a card that QEMU takes as an SD card: padded to a power of two, a GPT's second header moved to the end.

    Raises:
        EmulatorError: ``sgdisk`` is missing or fails.
        DeviceError: a file cannot be read or written.
    """
    try:
        _tool(["cp", "--sparse=always", "--reflink=auto", os.fspath(image), os.fspath(to)])
        size = os.path.getsize(to)
        os.truncate(to, 1 << (size - 1).bit_length())
        with open(to, "rb") as file:
            file.seek(512)
            is_gpt = file.read(8) == b"EFI PART"
    except OSError as error:
        raise device_error("copy", os.fspath(image), error) from error
    if is_gpt:
        _tool(["sgdisk", "--move-second-header", os.fspath(to)])


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    try:
        # A session of its own: the interrupt key of the terminal is not for it. And it must not outlive
        # a caller that was killed: it would hold the image.
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise EmulatorError("cannot run setpriv: it is not installed", "Debian: util-linux") from error


_PACKAGES = {"fdtput": "device-tree-compiler", "sgdisk": "gdisk", "qemu-system-aarch64": "qemu-system-arm"}


def _tool(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except FileNotFoundError as error:
        package = _PACKAGES.get(command[0], command[0])
        raise EmulatorError(f"cannot run {command[0]}: it is not installed", f"Debian: {package}") from error
    if done.returncode:
        said = done.stdout[-400:].decode("utf-8", "replace").strip()
        raise EmulatorError(f"cannot run {command[0]}: it ended with {done.returncode}: {said}")


def _random_cells() -> Iterator[int]:
    data = os.urandom(32)
    return (int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))


def _quoted(path: str) -> str:
    """In QEMU's options a comma ends a value."""
    return path.replace(",", ",,")
