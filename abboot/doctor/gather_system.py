"""Reading what the doctor looks at: the running system.  Changes nothing, and asks systemd only where it is this one.

Rules: what nobody tells is ``None``.  Only regular files are read, and each with a bound (G10).

Sources: documentation, device-tree.adoc (``chosen/bootloader``, ``blconfig``); Linux Documentation/ABI
(``sysfs-class-watchdog``); systemd-system.conf(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import attrs

from abboot.core.firmware import Board, Eeprom, Family, Model, identify_model
from abboot.core.partition_table import Partition, read_partition_table
from abboot.doctor.facts import OtherDisk, System, Watchdog
from abboot.errors import AbbootError

if TYPE_CHECKING:
    from abboot.config import Config
    from abboot.core.protocols import BootReport, Disk, Machine

_MAX_LISTED = 256  # files of a folder
_MAX_DISKS = 16
_MAX_PARTITIONS = 16  # of another disk, whose labels are read
_CONF_BYTES = 64 * 1024


def read_machine(machine: Machine) -> System:
    """What any board tells, also a simulated one."""
    report = machine.boot_report()
    return System(
        **_board_of(report, None),
        report=report,
        flag=_flag(machine),
        argument=machine.rebooter.pending_argument(),
    )


def _flag(machine: Machine) -> bool | None:
    try:
        return machine.mailbox.tryboot_flag()
    except AbbootError:
        return None


def read_system(machine: Machine, sysroot: str, config: Config, disk_name: str) -> System:
    """The board and the system whose kernel interfaces are below ``sysroot``.

    Args:
        machine: it.
        sysroot: where to read.
        config: whose commands are looked for.
        disk_name: of the managed disk: it is none of the others.
    """
    from abboot.linux.devicetree import read_bootloader_cell
    from abboot.linux.sysblock import disk_names
    from abboot.linux.sysroot import read_word, under
    from abboot.linux.throttled import under_voltage

    eeprom = _eeprom(sysroot)
    base = read_machine(machine)
    here = os.path.basename(disk_name)
    mailbox = any(os.path.lexists(under(sysroot, path)) for path in ("dev/vcio_ab", "dev/vcio"))
    kind = read_word(under(sysroot, f"sys/class/block/{here}/device/type"), 32)
    units, enabled = _units(sysroot)
    names = disk_names(sysroot)
    return attrs.evolve(
        base,
        **_board_of(base.report, eeprom, _revision_of(sysroot)),
        signed=read_bootloader_cell("signed", sysroot),
        eeprom=eeprom,
        kernel=read_word(under(sysroot, "proc/sys/kernel/osrelease"), 256) or None,
        mailbox=mailbox,
        notifier=None if mailbox else _notifier(sysroot),
        reboot_program=_reboot_program(sysroot),
        systemd=os.path.isdir(under(sysroot, "run/systemd/system")),
        runtime_watchdog_s=_runtime_watchdog(sysroot),
        watchdog=_watchdog(sysroot),
        disarms=_disarms(sysroot),
        hooks=_hooks(sysroot),
        booted_from_sd=None if kind is None else kind == "SD",
        other_disks=_other_disks(sysroot, names, here),
        usb_disks=sum(re.fullmatch(r"sd[a-z]+", name) is not None for name in names),
        boot_mounts=_boot_mounts(sysroot),
        booted_nodes=_nodes(sysroot, here),
        units=units,
        enabled=enabled,
        unit_problems=_unit_problems(sysroot, units),
        missing_tools=_missing_tools(sysroot, config),
        under_voltage=under_voltage(sysroot),
    )


def _board_of(
    report: BootReport | None, eeprom: Mapping[str, str] | None, revision: str | None = None
) -> dict[str, Any]:
    found = identify_model(report.model) if report is not None and report.model else None
    stamp = report.build_timestamp if report is not None else None
    built: date | None = datetime.fromtimestamp(stamp, UTC).date() if stamp else None
    if found is None:
        return {"board": None, "bootloader": built}
    model, told = found
    settings = eeprom or {}
    board = Board(
        model=model,
        revision=told or (revision if model is Model.PI_4 else None),
        eeprom=Eeprom(
            partition_walk=_switch(settings.get("PARTITION_WALK")),
            reboot_on_fatal_error=_switch(settings.get("REBOOT_ON_FATAL_ERROR")),
        ),
    )
    known = model.family is not Family.PI0_3 and built is not None
    return {"board": attrs.evolve(board, bootloader=built) if known and built else board, "bootloader": built}


def _switch(value: str | None) -> bool | None:
    return {"0": False, "1": True}.get(value or "")


def _revision_of(sysroot: str) -> str | None:
    """``1.2`` out of a Pi 4B's revision code, for a device tree whose model has none.

    Source: documentation, raspberry-pi/revision-codes.adoc: the type in bits 4 to 11 (0x11: 4B), the revision below.
    """
    from abboot.linux.sysroot import read_small, under

    text = (read_small(under(sysroot, "proc/cpuinfo"), _CONF_BYTES) or b"").decode("ascii", "replace")
    match = re.search(r"^Revision\s*:\s*([0-9a-f]{4,8})$", text, re.MULTILINE)
    code = int(match[1], 16) if match else 0
    return f"1.{code & 0xF}" if code >> 23 & 1 and code >> 4 & 0xFF == 0x11 else None


def _eeprom(sysroot: str) -> dict[str, str] | None:
    """The bootloader's configuration, which the firmware hands over as ``blconfig`` (rpi-eeprom-config reads it too).

    Sections are passed by: a setting that holds under some condition may hold now.
    """
    from abboot.linux.sysroot import read_small, under

    base = under(sysroot, "sys/bus/nvmem/devices")
    for name in _listed(base):
        if not name.startswith("blconfig"):
            continue
        content = read_small(os.path.join(base, name, "nvmem"), _CONF_BYTES)
        if content is None:
            continue
        found: dict[str, str] = {}
        for line in content.replace(b"\0", b"\n").decode("ascii", "replace").splitlines():
            key, equals, value = line.strip().partition("=")
            if equals and not key.startswith(("#", "[")):
                found[key.strip()] = value.strip()
        return found
    return None


def _notifier(sysroot: str) -> bool | None:
    """Whether the kernel passes ``0 tryboot`` on (raspberrypi/linux drivers/firmware/raspberrypi.c)."""
    from abboot.linux.sysroot import under

    limit = 64 * 1024 * 1024
    try:
        fd = os.open(under(sysroot, "proc/kallsyms"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(fd, "rb", buffering=0) as file:
        tail = b""
        while limit > 0:
            try:
                piece = file.read(1 << 20)
            except OSError:
                return None
            if not piece:
                return False
            if b"rpi_firmware_notify_reboot" in tail + piece:
                return True
            tail, limit = piece[-64:], limit - len(piece)
    return None


def _reboot_program(sysroot: str) -> str:
    from abboot.linux.sysroot import under

    for path in ("sbin/reboot", "usr/sbin/reboot", "bin/reboot", "usr/bin/reboot"):
        place = under(sysroot, path)
        if os.path.islink(place):
            return os.readlink(place)
        if os.path.lexists(place):
            return f"/{path}"
    return ""


_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(us|ms|s|sec|seconds?|m|min|minutes?|h|hr|hours?|)(?: |$)")
_SPAN_S = {"u": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def time_span_s(text: str) -> float | None:
    """A time span as systemd.time(7) has it, in seconds: ``15``, ``1min 30s``, ``off``; ``None`` if it is none."""
    text = text.strip().lower()
    if text in ("off", "0", "disabled"):
        return 0.0
    if text == "default":
        return None
    total, at = 0.0, 0
    while at < len(text):
        match = _SPAN.match(text, at)
        if match is None or match.end() == at:
            return None
        unit = match[2]
        total += float(match[1]) * _SPAN_S["ms" if unit == "ms" else unit[:1]]
        at = match.end()
    return total if text else None


def _runtime_watchdog(sysroot: str) -> float | None:
    """``RuntimeWatchdogSec``: of the drop-in whose name is last, a folder further up hiding one of the same name.

    Source: systemd-system.conf(5), "Configuration directories and precedence"; off where nobody sets it.
    """
    from abboot.linux.sysroot import read_small, under

    if not os.path.isdir(under(sysroot, "etc/systemd")) and not os.path.isdir(under(sysroot, "usr/lib/systemd")):
        return None
    folders = ("usr/lib", "usr/local/lib", "run", "etc")
    drop_ins: dict[str, str] = {}
    for folder in folders:
        base = under(sysroot, f"{folder}/systemd/system.conf.d")
        drop_ins |= {name: os.path.join(base, name) for name in _listed(base) if name.endswith(".conf")}
    mains = [under(sysroot, f"{folder}/systemd/system.conf") for folder in folders]
    main = [path for path in mains if os.path.isfile(path)][-1:]
    seconds = 0.0
    for path in [*main, *(drop_ins[name] for name in sorted(drop_ins))]:
        text = (read_small(path, _CONF_BYTES) or b"").decode("utf-8", "replace")
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == "RuntimeWatchdogSec":
                found = time_span_s(value)
                seconds = seconds if found is None else found
    return seconds


def _watchdog(sysroot: str) -> Watchdog | None:
    from abboot.linux.sysroot import read_word, under

    base = under(sysroot, "sys/class/watchdog/watchdog0")
    if not os.path.isdir(base):
        return None
    return Watchdog(state=read_word(os.path.join(base, "state"), 32))


def _disarms(sysroot: str) -> bool:
    """RPi-Distro/raspberrypi-sys-mods#115: a newer script leaves it armed where ``watchdog.open_timeout`` is set."""
    from abboot.linux.sysroot import read_small, under

    script = read_small(under(sysroot, "usr/share/initramfs-tools/scripts/init-top/rpi_wd"), _CONF_BYTES)
    return script is not None and b"open_timeout" not in script


def _hooks(sysroot: str) -> tuple[str, ...]:
    from abboot.linux.sysroot import read_small, under

    found = []
    for folder in ("kernel/postinst.d", "kernel/postrm.d", "initramfs/post-update.d"):
        base = under(sysroot, f"etc/{folder}")
        for name in _listed(base):
            content = read_small(os.path.join(base, name), _CONF_BYTES)
            if content is not None and b"/boot/firmware" in content:
                found.append(f"/etc/{folder}/{name}")
    return tuple(found)


def _other_disks(sysroot: str, names: Iterable[str], here: str) -> tuple[OtherDisk, ...]:
    from abboot.linux.blockdevice import open_disk

    found = []
    others = [name for name in names if re.fullmatch(r"mmcblk\d+|sd[a-z]+|nvme\d+n\d+", name) and name != here]
    for name in others[:_MAX_DISKS]:
        try:
            disk = open_disk(f"/dev/{name}", sysroot)
        except AbbootError:
            continue
        try:
            table = read_partition_table(disk.read, disk.size_bytes, disk.block_size_bytes, name=name)
            labels = tuple(
                sorted({label for item in table.partitions[:_MAX_PARTITIONS] if (label := _label(disk, item))})
            )
            found.append(OtherDisk(name=f"/dev/{name}", disk_id=table.disk_id, labels=labels))
        except AbbootError:
            continue
        finally:
            disk.close()
    return tuple(found)


def _label(disk: Disk, partition: Partition) -> str:
    from abboot.fat.geometry import Geometry

    if not partition.is_fat:
        return ""
    try:
        label = Geometry.parse(disk.read(partition.start, 512), partition.size).label
    except (AbbootError, ValueError):
        return ""
    return "" if label == "NO NAME" else label


def _boot_mounts(sysroot: str) -> dict[str, str]:
    from abboot.linux.mounts import read_mounts

    top = {entry.path: entry.device for entry in read_mounts(sysroot)}  # the last one is on top
    return {path: top[path] for path in ("/boot/firmware", "/boot") if path in top}


def _nodes(sysroot: str, disk: str) -> dict[int, str]:
    from abboot.linux.sysblock import partitions_of

    return {item.number: item.device for item in partitions_of(disk, sysroot) if item.device is not None}


_UNIT = re.compile(r"abboot[a-z0-9@_.-]*\.(service|timer|target)")


def _units(sysroot: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """abboot's units that are installed, and those that some target wants."""
    from abboot.linux.sysroot import under

    units: set[str] = set()
    enabled: set[str] = set()
    for folder in ("etc", "usr/lib", "lib"):
        base = under(sysroot, f"{folder}/systemd/system")
        for name in _listed(base):
            if _UNIT.fullmatch(name):
                units.add(name)
            elif name.endswith((".wants", ".requires")):
                enabled |= {unit for unit in _listed(os.path.join(base, name)) if _UNIT.fullmatch(unit)}
    return tuple(sorted(units)), frozenset(enabled)


def _unit_problems(sysroot: str, units: tuple[str, ...]) -> tuple[str, ...] | None:
    """What systemd says of abboot's units: on disk, and in this boot (H-38)."""
    from abboot.linux.sysroot import is_live
    from abboot.units import verify_units

    if not units:
        return ()
    found = verify_units(sysroot, [unit for unit in units if "@" not in unit])
    problems = [shown_line(line) for line in found or ()]
    if is_live(sysroot):
        problems += dropped_jobs(_journal_of_this_boot() or "")
        problems += _never_started([unit for unit in units if unit == "abboot-confirm.service"])
    return None if found is None and not is_live(sysroot) else tuple(dict.fromkeys(problems))


def shown_line(line: str) -> str:
    from abboot.core.tree import shown

    return shown(line.strip())


def dropped_jobs(journal: str) -> list[str]:
    """The jobs of abboot that systemd deleted to break an ordering cycle, from its lines of the journal.

    Source: systemd src/core/transaction.c: "Job %s/%s deleted to break ordering cycle starting with %s/%s".
    """
    return [
        f"in this boot: {shown_line(line)}"
        for line in journal.splitlines()[:10_000]
        if "deleted to break ordering cycle" in line and "abboot" in line
    ][:16]


def _journal_of_this_boot() -> str | None:
    return _run(["journalctl", "--boot", "--quiet", "--no-pager", "--output=cat", "--lines=5000", "_PID=1"])


def _never_started(units: list[str]) -> list[str]:
    problems = []
    for unit in units:
        told = _run(
            ["systemctl", "show", unit, "--property=UnitFileState,ConditionResult,InactiveExitTimestampMonotonic"]
        )
        state = _run(["systemctl", "is-system-running"])
        if told is None or state is None or state.strip() not in ("running", "degraded"):
            continue
        if never_started(told):
            problems.append(f"{unit} is enabled, and was not started in this boot")
    return problems


def never_started(properties: str) -> bool:
    """Whether ``systemctl show`` tells of an enabled unit that this boot left out, without a condition saying so."""
    values = dict(line.partition("=")[::2] for line in properties.splitlines())
    return (
        values.get("UnitFileState") == "enabled"
        and values.get("InactiveExitTimestampMonotonic") == "0"
        and values.get("ConditionResult") != "no"
    )


def _run(command: list[str]) -> str | None:
    from abboot.health.process import run_bounded

    try:
        ran = run_bounded(command, timeout_s=20.0, keep_bytes=1 << 20)
    except OSError:
        return None
    return None if ran.timed_out else ran.output


_PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")


def _missing_tools(sysroot: str, config: Config) -> tuple[str, ...]:
    """Commands of the configuration that are not there; a name without a ``/`` is looked for as a shell would."""
    from abboot.linux.sysroot import under

    commands = [config.trial.busy_hook, *(check.options.get("argv") for check in config.health.checks)]
    programs = [str(command[0]) for command in commands if isinstance(command, list | tuple) and command]
    if os.path.isdir(under(sysroot, "run/systemd/system")):
        programs.append("systemctl")
    missing = []
    for program in dict.fromkeys(programs):
        places = [program] if "/" in program else [f"{folder}/{program}" for folder in _PATH]
        if not any(os.path.lexists(under(sysroot, place)) for place in places):
            missing.append(program)
    return tuple(missing)


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MAX_LISTED]
    except OSError:
        return []
