"""A card as the firmware model wants to see it: which partitions can be opened, and the names of the files on them."""

from __future__ import annotations

from datetime import UTC, datetime

from abboot.core.firmware import Board, CardView, Eeprom, PartitionView, identify_model, opens_type
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.protocols import BootReport, Disk
from abboot.errors import Damaged, DeviceError
from abboot.selector import open_for_reading


def likely_board(report: BootReport | None) -> Board:
    """The board that the device tree describes; what it does not tell is taken to be the newest Pi 4."""
    if report is None:
        return Board()
    found = identify_model(report.model) if report.model else None
    model, revision = found if found else (Board().model, None)
    stamp = report.build_timestamp
    bootloader = datetime.fromtimestamp(stamp, UTC).date() if stamp else Board().bootloader
    return Board(model=model, bootloader=bootloader, revision=revision, eeprom=Eeprom())


def card_view(disk: Disk, table: PartitionTable, autoboot: bytes | None, board: Board) -> CardView:
    """The card, read as it is now; ``autoboot`` is what the selector's file holds."""
    starts = [partition.start for partition in table.partitions]
    return CardView(
        table=table.kind,
        partitions=tuple(_view(disk, partition, board) for partition in table.partitions),
        autoboot=autoboot,
        in_disk_order=starts == sorted(starts),
    )


def _view(disk: Disk, partition: Partition, board: Board) -> PartitionView:
    if not partition.is_fat or opens_type(board, partition.type_id) is False:
        return PartitionView(number=partition.number, readable=False, fat_type=partition.is_fat)
    try:
        with open_for_reading(disk, partition) as volume:
            files = frozenset(file.path.lower() for file in volume.files())
    except (Damaged, DeviceError):
        return PartitionView(number=partition.number, readable=False)
    return PartitionView(number=partition.number, readable=True, files=files)
