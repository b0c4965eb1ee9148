"""SimulatedPi: a board with a card, that boots what the firmware model says it boots.

What survives what:
    the card               everything that was written to it (this module loses nothing that was acknowledged)
    the one-shot flag      a reboot with or without argument; not a power cut, not the boot that used it
    the reboot argument    (`/run/systemd/reboot-param`) nothing but the boot it was written in
    model, bootloader      everything: they are the board

The state of a Pi that a program left and another one takes up is kept in a folder beside the image, tied to the id of
its disk: another card in the same place is a Pi that was just switched on.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any, Self

import attrs

from abboot.config import Config
from abboot.core.firmware import (
    Board,
    Boot,
    CardView,
    Eeprom,
    Kernel,
    Model,
    PartitionView,
    Reset,
    ResetKind,
    after_reset,
    next_boot,
    opens_type,
)
from abboot.core.partition_table import Partition, PartitionTable, read_partition_table
from abboot.core.protocols import BootReport, Clock, Disk, Mailbox, Rebooter
from abboot.core.words import Slot
from abboot.errors import AbbootError, Damaged, DeviceError, Refused
from abboot.linux.blockdevice import open_disk
from abboot.linux.sysroot import device_error
from abboot.manager import BootManager
from abboot.observe import observe
from abboot.simulator.disk import SimulatedDisk
from abboot.simulator.firmware_fat import FirmwareFat, NotReadable

_STATE_VERSION = 1
_KERNEL_TO_USERSPACE_S = 20.0  # what a boot takes, roughly; only clocks in the journal see it


@attrs.frozen(kw_only=True)
class _State:
    """Everything volatile, and the board."""

    board: Board
    disk_id: str
    boot_count: int  # since this card was put in
    boot_id: str  # drawn at every boot, as a kernel does
    boot: Boot
    flag: bool = False
    argument: str | None = None  # /run/systemd/reboot-param
    request: int = 0  # the partition request that this boot began with
    uptime_s: float = _KERNEL_TO_USERSPACE_S
    under_voltage: bool = False  # now; no boot and no other process knows of it
    inhibitors: tuple[str, ...] = ()  # likewise


class _Board:
    """Mailbox, rebooter, clock and boot report of a simulated Pi: the simulator's side of the protocols."""

    def __init__(self, pi: SimulatedPi) -> None:
        self._pi = pi
        self._began = time.monotonic()
        self._slept = 0.0

    @property
    def mailbox(self) -> Mailbox:
        return self

    @property
    def rebooter(self) -> Rebooter:
        return self

    @property
    def clock(self) -> Clock:
        return self

    # Machine
    def boot_report(self) -> BootReport:
        state = self._pi.state
        boot = state.boot
        stamp = datetime.combine(state.board.bootloader, datetime.min.time(), UTC)
        title = state.board.model.full_name
        return BootReport(
            partition=boot.reported_partition,
            tryboot=boot.tryboot,
            boot_mode=1,
            rsts=0x1000,
            build_timestamp=int(stamp.timestamp()),
            model=f"{title} Rev {state.board.revision}" if state.board.revision else title,
        )

    def boot_id(self) -> str:
        return self._pi.state.boot_id

    def under_voltage(self) -> bool | None:
        return self._pi.state.under_voltage

    # Mailbox
    def tryboot_flag(self) -> bool | None:
        return self._pi.state.flag if self._has_mailbox else None

    @property
    def _has_mailbox(self) -> bool:
        return self._pi.state.board.kernel is Kernel.DOWNSTREAM  # rpi-eeprom#716, H-29

    def set_tryboot_flag(self, value: bool) -> None:
        if not self._has_mailbox:
            raise DeviceError("cannot set the tryboot flag: there is no /dev/vcio", "use the Raspberry Pi kernel")
        self._pi.change(flag=value)

    # Rebooter
    def inhibitors(self) -> tuple[str, ...]:
        return self._pi.state.inhibitors

    def pending_argument(self) -> str | None:
        return self._pi.state.argument

    def set_argument(self, argument: str) -> None:
        self._pi.change(argument=argument)

    def clear_argument(self) -> None:
        self._pi.change(argument=None)

    def reboot(self, argument: str | None) -> None:
        self._pi.reboot(argument if argument is not None else self._pi.state.argument)

    # Clock
    def realtime_s(self) -> float:
        return time.time()

    def boottime_s(self) -> float:
        return self._pi.state.uptime_s + (time.monotonic() - self._began) + self._slept

    def sleep(self, seconds: float) -> None:
        """A simulated Pi waits in no time."""
        self._slept += seconds


class SimulatedPi:
    """A Raspberry Pi whose card is an image.  It is switched on when it is made.

    Args:
        image: the card, a disk image; or an open disk.
        board: model, bootloader date and the other knobs; ``None`` for a Pi 4 with the newest bootloader.
        config: the operator's settings, for :meth:`manager`.
        choose: which of several possible outcomes of a reset happens where the firmware is not known well enough;
            the first is the documented or most likely one.

    Raises:
        Damaged: the image has no partition table.
        DeviceError: the image cannot be opened.
    """

    def __init__(
        self,
        image: str | os.PathLike[str] | Disk,
        *,
        board: Board | None = None,
        config: Config | None = None,
        choose: int = 0,
    ) -> None:
        self._disk = SimulatedDisk(open_disk(os.fspath(image)) if isinstance(image, str | os.PathLike) else image)
        self._config = config
        self._choose = choose
        self._board = _Board(self)
        table = self._table()
        self._state = self._powered_on(board or Board(), table.disk_id, 0, Reset())

    # -- the state that outlives a process ----------------------------------------------------------------------

    @classmethod
    def load(cls, image: str | os.PathLike[str], *, config: Config | None = None) -> SimulatedPi:
        """The Pi of ``image`` as another process left it; just cold-booted if there is none, or with another card.

        Raises:
            Damaged: the image has no partition table, or the state beside it cannot be read.
        """
        pi = cls(image, config=config)
        path = state_path(image)
        try:
            with open(path, encoding="utf-8") as file:
                saved = json.loads(file.read(1 << 20))
        except FileNotFoundError:
            return pi
        except (OSError, ValueError, RecursionError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else "it is not JSON"
            raise _unreadable_state(image, what.lower()) from error
        try:
            state = _state_from_json(saved)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise _unreadable_state(image, "it is not what this abboot writes") from error
        if state.disk_id == pi.state.disk_id:
            pi._state = state
        else:  # another card: the board stays what it was
            pi._state = pi._powered_on(state.board, pi.state.disk_id, 0, Reset())
        return pi

    def save(self, image: str | os.PathLike[str]) -> None:
        """Leave the state beside ``image`` for another process."""
        folder, path = state_folder(image), state_path(image)
        uptime = self._board.boottime_s()
        text = json.dumps(_state_to_json(attrs.evolve(self._state, uptime_s=uptime)), indent=2) + "\n"
        try:
            os.makedirs(folder, exist_ok=True)
            with open(path + ".new", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(path + ".new", path)
        except OSError as error:
            raise device_error("keep the state of the simulated Pi in", folder, error) from error

    # -- what is going on ---------------------------------------------------------------------------------------

    @property
    def state(self) -> _State:
        return self._state

    @property
    def boot(self) -> Boot:
        """What the firmware did at the last reset, and why."""
        return self._state.boot

    @property
    def running(self) -> bool:
        """Whether anything booted."""
        return self._state.boot.partition is not None

    @property
    def board(self) -> Board:
        return self._state.board

    def slot_of(self, partition: int | None) -> Slot | None:
        """The slot on a partition; ``None`` also where selector and slots cannot be told."""
        try:
            return observe(self._disk, None).layout.slot_of(partition)
        except AbbootError:
            return None

    @property
    def boot_report(self) -> BootReport:
        """What the firmware tells the kernel in the device tree."""
        return self._board.boot_report()

    def booted_file(self, path: str, limit: int) -> bytes | None:
        """The first ``limit`` bytes of a file of the partition that booted, as the firmware reads them now.

        ``None``: there is no such file, or nothing booted.
        """
        partition = next((one for one in self._table().partitions if one.number == self.boot.partition), None)
        if partition is None:
            return None
        with self._reading(partition) as read:
            try:
                return FirmwareFat(read, partition.size).read_file(path, limit)
            except NotReadable:
                return None

    @property
    def disk(self) -> SimulatedDisk:
        return self._disk

    def manager(self) -> BootManager:
        """abboot as it would run on this Pi.

        Raises:
            Refused: nothing booted, so nothing runs.
        """
        if not self.running:
            raise Refused(
                f"cannot run abboot: nothing runs on this Pi: {self._state.boot.why[-1]}",
                "cut its power: `abboot simulate power-cut IMG`",
            )
        return BootManager(self._disk, self._board, self._config)

    def change(self, **changes: Any) -> None:
        """Change volatile state: ``flag=True``, ``argument=None``."""
        self._state = attrs.evolve(self._state, **changes)

    def set_board(self, board: Board) -> None:
        """Another board under the same card; it counts from the next reset."""
        self._state = attrs.evolve(self._state, board=board)

    # -- what the world does to it ------------------------------------------------------------------------------

    def power_cut(self) -> Boot:
        """Cut the power now, and switch it on again: the flag is lost, ``[all]`` counts."""
        return self._reset(ResetKind.POWER_CUT)

    def reboot(self, argument: str | None = None) -> Boot:
        """Reboot, as ``reboot(2)`` with this argument: ``"0 tryboot"``, ``"3"`` or nothing."""
        return self._reset(ResetKind.REBOOT, argument)

    def watchdog_reset(self) -> Boot:
        """The hardware watchdog fires."""
        return self._reset(ResetKind.WATCHDOG)

    def panic(self) -> Boot:
        """The kernel panics, and reboots after its ``panic=N`` seconds."""
        return self._reset(ResetKind.PANIC)

    def cut_before_write(self, number: int | None) -> None:
        """Cut the power before write ``number`` from now; the verb that runs then raises :class:`PowerCut`.

        Afterwards :meth:`power_cut` switches the Pi on again.
        """
        self._disk.cut_before_write(number)

    def would_boot(self, kind: ResetKind, *, argument: str | None = None, flag: bool | None = None) -> tuple[Boot, ...]:
        """Every boot that this reset could end in, without doing it."""
        state = self._state
        resets = after_reset(
            state.board,
            kind,
            flag=state.flag if flag is None else flag,
            argument=argument,
            request=state.request,
        )
        if flag and kind is ResetKind.POWER_CUT:
            resets = (Reset(tryboot=True),)
        card = self._card(state.board)
        found: dict[tuple[object, ...], Boot] = {}
        for reset in resets:
            for boot in next_boot(state.board, card, reset):
                found.setdefault((boot.partition, boot.tryboot, boot.config, boot.reported_partition), boot)
        return tuple(attrs.evolve(boot, certain=len(found) == 1) for boot in found.values())

    def cold_boot(self, *, tryboot: bool = False) -> Boot:
        """Switch it off and on; ``tryboot``: as if the firmware found the flag set, for asking what would happen."""
        return self._boot_with(Reset(tryboot=tryboot))

    def _reset(self, kind: ResetKind, argument: str | None = None) -> Boot:
        state = self._state
        resets = after_reset(state.board, kind, flag=state.flag, argument=argument, request=state.request)
        return self._boot_with(resets[min(self._choose, len(resets) - 1)])

    def _boot_with(self, reset: Reset) -> Boot:
        state = self._state
        self._disk.kill()
        self._disk.power_on()
        disk_id = self._table().disk_id
        self._state = self._powered_on(state.board, disk_id, state.boot_count + 1, reset)
        self._board = _Board(self)
        return self._state.boot

    def _powered_on(self, board: Board, disk_id: str, boot_count: int, reset: Reset) -> _State:
        boots = next_boot(board, self._card(board), reset)
        boot = boots[min(self._choose, len(boots) - 1)]
        return _State(
            board=board,
            disk_id=disk_id,
            boot_count=boot_count,
            boot_id=str(uuid.uuid4()),
            boot=boot,
            request=reset.request,
        )

    # -- the card as the firmware sees it -----------------------------------------------------------------------

    def _table(self) -> PartitionTable:
        return read_partition_table(
            self._disk.read, self._disk.size_bytes, self._disk.block_size_bytes, name=self._disk.name
        )

    def _card(self, board: Board) -> CardView:
        """Through a reader of its own: neither the one nor the other half of abboot's FAT code."""
        table = self._table()
        starts = [partition.start for partition in table.partitions]
        views = []
        autoboot: bytes | None = None
        first = True
        for partition in table.partitions:
            if not partition.is_fat or opens_type(board, partition.type_id) is False:
                views.append(PartitionView(number=partition.number, readable=False, fat_type=partition.is_fat))
                continue
            with self._reading(partition) as read:
                try:
                    fat = FirmwareFat(read, partition.size)
                except NotReadable:
                    views.append(PartitionView(number=partition.number, readable=False))
                    continue
                views.append(PartitionView(number=partition.number, readable=True, files=fat.paths()))
                if first:
                    autoboot, first = fat.read_file("autoboot.txt", 4096), False
        return CardView(
            table=table.kind, partitions=tuple(views), autoboot=autoboot, in_disk_order=starts == sorted(starts)
        )

    @contextmanager
    def _reading(self, partition: Partition) -> Iterator[Any]:
        device = self._disk.open_partition(partition.number, partition.start, partition.size)
        try:
            yield device.read
        finally:
            device.close()

    def close(self) -> None:
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unreadable_state(image: str | os.PathLike[str], found: str) -> Damaged:
    folder = state_folder(image)
    return Damaged(
        f"cannot read the state of the simulated Pi in {folder}: {found}",
        f"remove {folder}: the Pi is then one that was just switched on",
    )


def state_folder(image: str | os.PathLike[str]) -> str:
    """Where the state of the simulated Pi of ``image`` is kept."""
    return os.fspath(image) + ".pi"


def state_path(image: str | os.PathLike[str]) -> str:
    return os.path.join(state_folder(image), "state.json")


def parse_board(board: Board, model: str | None, bootloader: str | None) -> Board:
    """``board`` with another model or bootloader date (``2022-12-01``); raises :class:`AbbootError`."""
    changes: dict[str, Any] = {}
    if model is not None:
        if model not in list(Model):
            raise AbbootError(f"cannot simulate the model {model}: it is none that is known", f"use {', '.join(Model)}")
        changes["model"] = Model(model)
    if bootloader is not None:
        try:
            changes["bootloader"] = date.fromisoformat(bootloader)
        except ValueError as error:
            raise AbbootError(
                f"cannot simulate a bootloader of {bootloader}: that is no date", "write it as 2022-12-01"
            ) from error
    return attrs.evolve(board, **changes)


def _state_to_json(state: _State) -> dict[str, Any]:
    board, boot = state.board, state.boot
    return {
        "version": _STATE_VERSION,
        "disk_id": state.disk_id,
        "board": {
            "model": str(board.model),
            "bootloader": board.bootloader.isoformat(),
            "revision": board.revision,
            "partition_walk": board.eeprom.partition_walk,
            "kernel": str(board.kernel),
        },
        "boot_count": state.boot_count,
        "boot_id": state.boot_id,
        "boot": attrs.asdict(boot),
        "flag": state.flag,
        "argument": state.argument,
        "request": state.request,
        "uptime_s": round(state.uptime_s, 3),
    }


def _state_from_json(saved: dict[str, Any]) -> _State:
    if saved["version"] != _STATE_VERSION:
        raise ValueError(f"version {saved['version']}")
    board, boot = saved["board"], dict(saved["boot"])
    return _State(
        board=Board(
            model=Model(board["model"]),
            bootloader=date.fromisoformat(board["bootloader"]),
            revision=board["revision"],
            eeprom=Eeprom(partition_walk=board["partition_walk"]),
            kernel=board["kernel"],
        ),
        disk_id=str(saved["disk_id"]),
        boot_count=int(saved["boot_count"]),
        boot_id=str(uuid.UUID(saved["boot_id"])),
        boot=Boot(**{**boot, "why": tuple(boot["why"])}),
        flag=bool(saved["flag"]),
        argument=saved["argument"],
        request=int(saved["request"]),
        uptime_s=float(saved["uptime_s"]),
    )
