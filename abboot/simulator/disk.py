"""A disk that counts, records and refuses: the power can be cut before any write.

After a cut every device of the disk refuses all further calls: Python still runs ``finally`` blocks, a dead board does
not.  So :class:`PowerCut` is a ``BaseException``, which no ``except Exception`` swallows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import attrs

from abboot.core.protocols import BlockDevice, Buffer, Disk, Mount


class PowerCut(BaseException):
    """The power is gone.  Whoever catches this outside the simulated board may power it on again."""


@attrs.frozen(kw_only=True)
class Write:
    """One recorded write, or with ``data is None`` one flush."""

    partition: int
    offset: int  # in the partition, bytes
    data: bytes | None


@attrs.define
class _Supply:
    """The power supply: shared by the disk and all devices opened from it."""

    writes: int = 0
    cut_before: int | None = None
    dead: bool = False
    record: list[Write] | None = None

    def check(self) -> None:
        if self.dead:
            raise PowerCut("the power is off")

    def spend(self, write: Write) -> None:
        """Account for one write; the cut comes before it."""
        self.check()
        if write.data is not None:
            if self.cut_before is not None and self.writes >= self.cut_before:
                self.dead = True
                raise PowerCut(f"cut before write {self.writes}")
            self.writes += 1
        if self.record is not None:
            self.record.append(write)


class _SimulatedDevice:
    """A partition of a :class:`SimulatedDisk`."""

    def __init__(self, device: BlockDevice, number: int, supply: _Supply) -> None:
        self._device = device
        self._number = number
        self._supply = supply

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def size_bytes(self) -> int:
        return self._device.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._device.block_size_bytes

    def read(self, offset: int, length: int) -> bytes:
        self._supply.check()
        return self._device.read(offset, length)

    def write(self, offset: int, data: Buffer) -> None:
        recorded = bytes(data) if self._supply.record is not None else b""
        self._supply.spend(Write(partition=self._number, offset=offset, data=recorded))
        self._device.write(offset, data)

    def flush(self) -> None:
        self._supply.spend(Write(partition=self._number, offset=0, data=None))
        self._device.flush()

    def forget_cache(self) -> None:
        self._supply.check()
        self._device.forget_cache()

    def close(self) -> None:
        self._device.close()


class SimulatedDisk:
    """The card of a simulated Pi: another disk, with a power supply in front of it.

    Args:
        disk: the image, usually.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._supply = _Supply()

    @property
    def writes(self) -> int:
        """Writes since the power came on."""
        return self._supply.writes

    def cut_before_write(self, number: int | None) -> None:
        """Cut the power before write ``number`` from now (0: before the next one); ``None``: do not."""
        self._supply.cut_before = None if number is None else self._supply.writes + number

    def record(self) -> list[Write]:
        """Record every write and flush from now on, in order, into the list that is returned."""
        self._supply.record = []
        return self._supply.record

    def power_on(self) -> None:
        """After a cut: a new supply.  Devices opened before stay dead."""
        self._supply = _Supply(record=self._supply.record)

    def kill(self) -> None:
        """Cut the power now: everything opened before refuses every further call."""
        self._supply.dead = True

    @property
    def name(self) -> str:
        return self._disk.name

    @property
    def size_bytes(self) -> int:
        return self._disk.size_bytes

    @property
    def block_size_bytes(self) -> int:
        return self._disk.block_size_bytes

    def read(self, offset: int, length: int) -> bytes:
        self._supply.check()
        return self._disk.read(offset, length)

    def open_partition(self, number: int, start: int, size: int, *, writable: bool = False) -> BlockDevice:
        self._supply.check()
        device = self._disk.open_partition(number, start, size, writable=writable)
        return _SimulatedDevice(device, number, self._supply)

    def mounts_of(self, number: int) -> tuple[Mount, ...]:
        return self._disk.mounts_of(number)

    def lock(self) -> AbstractContextManager[None]:
        self._supply.check()
        return self._locked()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._disk.lock():
            yield

    def close(self) -> None:
        self._disk.close()
