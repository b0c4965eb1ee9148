"""Whatever a device says of itself, every hazard gets one of three answers, and no probe fails."""

from __future__ import annotations

import time
from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.firmware import Board, Model
from abboot.core.hazards import HAZARDS
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.protocols import BootReport
from abboot.core.words import FatType, Phase, Slot, TableKind
from abboot.doctor import judge
from abboot.doctor.facts import BootPartition, Card, Facts, OtherDisk, System, Tree, Watchdog
from abboot.doctor.probe import Found
from abboot.doctor.probes import PROBES

DATES = st.dates(date(2019, 1, 1), date(2030, 1, 1))
CONFIG = st.text(max_size=40) | st.lists(
    st.sampled_from(
        ["kernel_watchdog_timeout=9", "kernel_watchdog_partition=3", "eeprom_write_protect=1", "auto_initramfs=1", "a"]
    )
).map("\n".join)
CMDLINE = st.text(max_size=40) | st.lists(
    st.sampled_from(["root=/dev/mmcblk0p9", "root=PARTUUID=ab007e57-02", "root=PARTLABEL=root_a", "panic=1", "resize"])
).map(" ".join)
NAMES = st.sampled_from(
    ["start4.elf", "start.elf", "boot.img", "recovery.bin", "config.txt", "initramfs8", "tryboot.txt", "KERNEL8.IMG"]
) | st.text(max_size=8)
TREES = st.builds(
    Tree,
    name=st.just("the tree"),
    files=st.dictionaries(NAMES, st.integers(0, 99), max_size=6),
    config=st.none() | CONFIG,
    cmdline=st.none() | CMDLINE,
    builds=st.dictionaries(st.sampled_from(["start4.elf", "start.elf"]), st.none() | DATES),
    blind_device_trees=st.lists(st.sampled_from(["bcm2711-rpi-4-b.dtb", "bcm2712-x.dtb"])).map(tuple),
    bootcode=st.none() | st.sampled_from(["aa", "bb"]),
)
TYPES = st.sampled_from(["0x0c", "0x06", "0x83", "0x07", "0xef", "0x05"])
LINES = st.sampled_from(
    [b"[all]", b"[tryboot]", b"[ALL]", b"boot_partition=2", b"boot_partition=9", b"tryboot_a_b=1", b"\r", b"include x"]
)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    table = PartitionTable(
        kind=draw(st.sampled_from(TableKind)),
        disk_id="ab007e57",
        partitions=tuple(
            Partition(number=number, start=draw(st.integers(0, 9)) << 20, size=1 << 20, type_id=draw(TYPES))
            for number in range(1, draw(st.integers(2, 6)))
        ),
    )
    return Card(
        name="card",
        table=draw(st.none() | st.just(table)),
        problem=draw(st.sampled_from(["", "nothing there"])),
        gpt_entries_lba=draw(st.none() | st.integers(0, 99)),
        selector=draw(st.none() | st.integers(1, 4)),
        slots=draw(st.dictionaries(st.sampled_from(Slot), st.integers(1, 6))),
        partitions=tuple(
            BootPartition(
                partition=partition,
                tree=draw(st.none() | TREES),
                fat=draw(st.none() | st.sampled_from(FatType)),
                dirty=draw(st.none() | st.booleans()),
                free_clusters=draw(st.none() | st.integers(0, 2)),
                label=draw(st.sampled_from(["", "BOOT"])),
            )
            for partition in table.partitions
        ),
        autoboot=draw(st.none() | st.binary(max_size=30) | st.lists(LINES).map(b"\n".join)),
        phase=draw(st.none() | st.sampled_from(Phase)),
        reason="it is odd",
        booted=draw(st.none() | st.sampled_from(Slot)),
        primary=draw(st.none() | st.sampled_from(Slot)),
        inactive=draw(st.none() | st.sampled_from(Slot)),
    )


SYSTEMS = st.builds(
    System,
    board=st.none() | st.builds(Board, model=st.sampled_from(Model), revision=st.sampled_from([None, "1.1", "1.4"])),
    bootloader=st.none() | DATES,
    report=st.none() | st.builds(BootReport, rsts=st.integers(0, 2**32 - 1), boot_mode=st.integers(0, 9)),
    signed=st.none() | st.integers(0, 15),
    flag=st.none() | st.booleans(),
    argument=st.none() | st.text(max_size=10) | st.just("0 tryboot"),
    eeprom=st.none()
    | st.dictionaries(
        st.sampled_from(["PARTITION", "BOOT_WATCHDOG_TIMEOUT", "BOOT_WATCHDOG_PARTITION", "REBOOT_ON_FATAL_ERROR"]),
        st.text(max_size=4) | st.sampled_from(["0", "1", "60"]),
    ),
    kernel=st.none() | st.text(max_size=8) | st.just("6.1.21-v8+"),
    mailbox=st.none() | st.booleans(),
    notifier=st.none() | st.booleans(),
    reboot_program=st.none() | st.text(max_size=8),
    systemd=st.none() | st.booleans(),
    runtime_watchdog_s=st.none() | st.floats(0, 1e9),
    watchdog=st.none() | st.builds(Watchdog, state=st.sampled_from([None, "active", "inactive"])),
    disarms=st.none() | st.booleans(),
    hooks=st.none() | st.lists(st.text(max_size=4), max_size=5).map(tuple),
    booted_from_sd=st.none() | st.booleans(),
    other_disks=st.none() | st.lists(st.builds(OtherDisk, name=st.just("sda"), disk_id=st.just("ab007e57"))).map(tuple),
    usb_disks=st.none() | st.integers(0, 3),
    units=st.none() | st.just(("abboot-confirm.service",)),
    enabled=st.none() | st.just(frozenset({"abboot-confirm.service"})),
    unit_problems=st.none() | st.lists(st.text(min_size=1, max_size=5)).map(tuple),
    missing_tools=st.none() | st.lists(st.text(max_size=5)).map(tuple),
    under_voltage=st.none() | st.booleans(),
)


@settings(max_examples=60)
@given(st.builds(Facts, card=st.none() | cards(), system=st.none() | SYSTEMS, folder=st.none() | st.none() | TREES))
def test_every_hazard_gets_one_answer(facts: Facts) -> None:
    report = judge(facts)

    found = {finding.id for finding in report.findings}
    assert found | set(report.clear) | set(report.unseen) == set(HAZARDS)
    assert len(found) + len(report.clear) + len(report.unseen) == len(HAZARDS)
    assert all(report.unseen.values())
    assert all(finding.found for finding in report.findings)
    assert len(report.recovery) == 12


def test_a_hostile_command_line_takes_no_time() -> None:
    size = 256 * 1024
    began = time.monotonic()

    for cmdline in ("root=/dev/" + "1" * size, "root=PARTLABEL=" + "a" * size, "panic=1" * (size // 7), '"' * size):
        tree = Tree(name="the tree", files={"cmdline.txt": size}, cmdline=cmdline, config="x=" * (size // 2))
        partition = Partition(number=2, start=1 << 20, size=1 << 20, type_id="0x0c")
        table = PartitionTable(kind=TableKind.MBR, disk_id="ab007e57", partitions=(partition,))
        card = Card(
            name="card",
            table=table,
            slots={Slot.A: 2},
            partitions=(BootPartition(partition=partition, tree=tree),),
            autoboot=b"boot_partition=" + b"9" * size,
        )
        judge(Facts(card=card))

    assert time.monotonic() - began < 20  # a few tenths of a second; quadratic would be hours


def test_a_probe_yields_what_it_found_as_values() -> None:
    tree = Tree(name="the tree", files={"recovery.bin": 1})

    assert [type(item) for item in PROBES["H-11"](Facts(folder=tree))] == [Found]
