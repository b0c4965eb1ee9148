"""Block devices for tests: in memory, with everything that was done to it, and on a plain file."""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from abboot.core.protocols import Buffer


@attrs.frozen
class Write:
    """One recorded write."""

    offset: int
    data: bytes


@attrs.frozen
class Flush:
    """One recorded flush."""


class _Device:
    """The rules of a BlockDevice that both share."""

    def __init__(self, name: str, size: int, block_size: int) -> None:
        self.name = name
        self.size_bytes = size
        self.block_size_bytes = block_size
        self.bytes_read = 0

    def read(self, offset: int, length: int) -> bytes:
        self._check(offset, length)
        self.bytes_read += length
        data = self._pread(offset, length)
        assert len(data) == length
        return data

    def write(self, offset: int, data: Buffer) -> None:
        length = memoryview(data).nbytes
        self._check(offset, length)
        if offset % self.block_size_bytes or length % self.block_size_bytes:
            raise ValueError(f"write of {length} bytes at {offset} is not aligned to {self.block_size_bytes}")
        self._pwrite(offset, data)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"{length} bytes at {offset} are outside the {self.size_bytes} of {self.name}")

    def _pread(self, offset: int, length: int) -> bytes:
        raise NotImplementedError

    def _pwrite(self, offset: int, data: Buffer) -> None:
        raise NotImplementedError


class MemoryDevice(_Device):
    """A device in memory; ``log`` has every write and flush in order."""

    def __init__(self, size: int | bytes, block_size: int = 512, name: str = "memory") -> None:
        self.content = bytearray(size)
        self.log: list[Write | Flush] = []
        super().__init__(name, len(self.content), block_size)

    @property
    def writes(self) -> list[Write]:
        return [event for event in self.log if isinstance(event, Write)]

    def _pread(self, offset: int, length: int) -> bytes:
        return bytes(self.content[offset : offset + length])

    def _pwrite(self, offset: int, data: Buffer) -> None:
        self.content[offset : offset + memoryview(data).nbytes] = data
        self.log.append(Write(offset, bytes(data)))

    def flush(self) -> None:
        self.log.append(Flush())

    def forget_cache(self) -> None: ...

    def close(self) -> None: ...


class FileDevice(_Device):
    """A plain file as a device; ``write_calls`` and ``bytes_written`` are counted."""

    def __init__(self, path: Path, block_size: int = 512) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.write_calls = self.bytes_written = 0
        super().__init__(str(path), os.fstat(self._fd).st_size, block_size)

    def _pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def _pwrite(self, offset: int, data: Buffer) -> None:
        length = memoryview(data).nbytes
        self.write_calls += 1
        self.bytes_written += length
        assert os.pwrite(self._fd, data, offset) == length

    def flush(self) -> None:
        os.fsync(self._fd)

    def forget_cache(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._fd)
