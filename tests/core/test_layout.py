"""Which partition is selector and which are slots: told by configuration, journal or the table, never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.layout import LAST_BOOTABLE, Configured, discover, find_selector, label_slot
from abboot.core.partition_table import Partition, PartitionTable
from abboot.core.words import Slot, TableKind
from abboot.errors import AbbootError

FAT, LINUX = "0x0c", "0x83"
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"


def table(*types: str, kind: TableKind = TableKind.MBR) -> PartitionTable:
    """Partitions 1.. of these types, one after the other; ``""`` leaves a number out."""
    return PartitionTable(
        kind=kind,
        disk_id="1234abcd",
        partitions=tuple(
            Partition(number=number, start=number * 4096, size=4096, type_id=type_id)
            for number, type_id in enumerate(types, start=1)
            if type_id
        ),
    )


def test_three_fat_partitions_are_selector_a_and_b() -> None:
    layout = discover(table(FAT, FAT, FAT, LINUX))

    assert (layout.selector.number, layout.a.number, layout.b.number) == (1, 2, 3)
    assert layout.notes == ()


def test_slots_and_numbers_translate_both_ways() -> None:
    layout = discover(table(FAT, LINUX, FAT, FAT))

    assert layout.partition(Slot.A).number == 3
    assert layout.partition(Slot.B).number == 4
    assert [layout.slot_of(number) for number in (1, 2, 3, 4, 5)] == [None, None, Slot.A, Slot.B, None]


def test_the_selector_is_the_lowest_number_whatever_the_order_on_disk() -> None:
    unordered = PartitionTable(
        kind=TableKind.MBR,
        disk_id="1234abcd",
        partitions=tuple(
            Partition(number=number, start=start * 4096, size=4096, type_id=FAT)
            for number, start in ((1, 9), (2, 1), (3, 5))
        ),
    )

    assert discover(unordered).selector.number == 1


@pytest.mark.parametrize(
    ("types", "found"),
    [
        ((FAT,), "1 FAT partition found (number 1), a selector and two slots are needed"),
        ((FAT, FAT, LINUX), "2 FAT partitions found (numbers 1, 2), a selector and two slots are needed"),
        (
            (FAT, FAT, FAT, FAT),
            (
                "4 FAT partitions found (numbers 1, 2, 3, 4), a selector and two slots are needed; "
                "autoboot.txt names none, the labels are 2, 3, 4"
            ),
        ),
        (
            (FAT, FAT, LINUX, "0x05", FAT),
            "2 FAT partitions found (numbers 1, 2), a selector and two slots are needed; the firmware does not boot 5",
        ),
    ],
)
def test_too_few_or_too_many_are_listed(types: tuple[str, ...], found: str) -> None:
    with pytest.raises(AbbootError) as error:
        discover(table(*types), name="card.img")

    assert str(error.value) == f"cannot find the slots on card.img: {found}"
    assert error.value.hint


def test_without_a_fat_partition_the_types_are_listed() -> None:
    with pytest.raises(AbbootError) as error:
        discover(table(LINUX, "0x07"), name="card.img")

    assert str(error.value) == "cannot find the selector on card.img: no partition has a FAT type (1: 0x83, 2: 0x07)"


def test_a_logical_fat_partition_does_not_confuse() -> None:
    layout = discover(table(FAT, FAT, FAT, "0x0f", FAT, LINUX))

    assert (layout.a.number, layout.b.number) == (2, 3)


def test_the_journal_tells_slots_among_many() -> None:
    layout = discover(table(FAT, FAT, FAT, FAT), journal_slots=(2, 4))

    assert (layout.a.number, layout.b.number) == (2, 4)
    assert layout.notes == ()


def test_the_configuration_wins_over_the_journal() -> None:
    layout = discover(
        table(FAT, FAT, FAT, FAT), journal_slots=(2, 4), configured=Configured(selector=2, slot_a=3, slot_b=4)
    )

    assert (layout.selector.number, layout.a.number, layout.b.number) == (2, 3, 4)


@pytest.mark.parametrize(
    ("slots", "why"),
    [
        ((2, 9), "there is no partition 9"),
        ((1, 2), "partition 1 is the selector"),
        ((3, 2), "slot a is the one with the lower number, but a is 3 and b is 2"),
        ((2, 2), "slot a is the one with the lower number, but a is 2 and b is 2"),
        ((2, 4), "partition 4 has the type 0x83, which is not FAT"),
    ],
)
def test_an_impossible_journal_is_ignored_and_noted(slots: tuple[int, int], why: str) -> None:
    layout = discover(table(FAT, FAT, FAT, LINUX), journal_slots=slots)

    assert (layout.a.number, layout.b.number) == (2, 3)
    assert layout.notes == (f"the slots that the journal names are ignored: {why}",)


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        (Configured(slot_a=2, slot_b=9), "use the configured slots on card.img: there is no partition 9"),
        (Configured(slot_a=1, slot_b=3), "use the configured slots on card.img: partition 1 is the selector"),
        (
            Configured(slot_a=2, slot_b=6),
            "use the configured slots on card.img: the firmware boots partitions 1 to 4 of a disk with MBR, not 6",
        ),
        (Configured(slot_a=2), "find the slots on card.img: the configuration names only one of slot_a and slot_b"),
        (Configured(selector=7), "use the configured selector on card.img: there is no partition 7"),
        (
            Configured(selector=4),
            "use the configured selector on card.img: partition 4 has the type 0x0f, which is not FAT",
        ),
    ],
)
def test_an_impossible_configuration_is_an_error(configured: Configured, message: str) -> None:
    with pytest.raises(AbbootError) as error:
        discover(table(FAT, FAT, FAT, "0x0f", LINUX, FAT), configured=configured, name="card.img")

    assert str(error.value) == f"cannot {message}"
    assert error.value.hint


def test_a_gpt_may_have_its_slots_beyond_four() -> None:
    layout = discover(table(BASIC_DATA, "", "", "", BASIC_DATA, BASIC_DATA, kind=TableKind.GPT))

    assert (layout.a.number, layout.b.number) == (5, 6)


def labelled(*labels: str, kind: TableKind = TableKind.GPT) -> PartitionTable:
    """FAT partitions 1.. of a GPT with these names."""
    plain = table(*([BASIC_DATA] * len(labels)), kind=kind)
    parts = tuple(
        Partition(number=part.number, start=part.start, size=part.size, type_id=part.type_id, name=label)
        for part, label in zip(plain.partitions, labels, strict=True)
    )
    return PartitionTable(kind=kind, disk_id="1234abcd", partitions=parts)


@pytest.mark.parametrize(
    ("label", "slot"),
    [
        *((label, Slot.A) for label in ("boot_a", "BOOT_A", "boot-a", "BOOTFS A", "bootfs_a", "FIRMWARE_A", "fw.a")),
        *((label, Slot.B) for label in ("boot_b", "FIRMWARE_B", "BOOTFS B", " boot b ")),
        *((label, None) for label in ("", "bootloader", "BOOTCONFIG", "boot", "boot_c", "system_a", "a", "root_b")),
    ],
)
def test_a_label_names_a_slot_or_none(label: str, slot: Slot | None) -> None:
    assert label_slot(label) is slot


def test_labels_tell_the_slots_among_many() -> None:
    layout = discover(labelled("bootconfig", "data", "boot_a", "boot_b", "media"))

    assert (layout.selector.number, layout.a.number, layout.b.number) == (1, 3, 4)


def test_volume_labels_tell_them_where_the_table_has_no_names() -> None:
    names = {2: "FIRMWARE_A", 3: "STUFF", 4: "FIRMWARE_B"}

    layout = discover(table(FAT, FAT, FAT, FAT), label_of=lambda partition: names[partition.number])

    assert (layout.a.number, layout.b.number) == (2, 4)


def test_slot_a_has_the_lower_number_whatever_the_labels_call_it() -> None:
    layout = discover(labelled("", "boot_b", "", "boot_a"))

    assert (layout.a.number, layout.b.number) == (2, 4)


def test_without_labels_the_two_that_autoboot_txt_names_are_the_slots() -> None:
    layout = discover(table(FAT, FAT, FAT, FAT), autoboot=(4, 2))

    assert (layout.a.number, layout.b.number) == (2, 4)


def test_the_journal_wins_over_labels_and_autoboot_txt() -> None:
    layout = discover(labelled("", "", "boot_a", "boot_b"), journal_slots=(2, 3), autoboot=(3, 4))

    assert (layout.a.number, layout.b.number) == (2, 3)


@pytest.mark.parametrize(
    ("labels", "autoboot", "told"),
    [
        (("", "", "", ""), (), "autoboot.txt names none, the labels are 2, 3, 4"),
        (("", "", "", ""), (2, 2), "autoboot.txt names 2, the labels are 2, 3, 4"),
        (("", "", "", ""), (2, 9), "autoboot.txt names 2 and 9, the labels are 2, 3, 4"),
        (("", "", "", ""), (1, 2), "autoboot.txt names 1 and 2, the labels are 2, 3, 4"),
        (("", "boot_a", "boot_b", ""), (2, 4), "autoboot.txt names 2 and 4, the labels are 2 'boot_a', 3 'boot_b', 4"),
        (
            ("", "x", "boot_a", "boot_b"),
            (2, None),
            "autoboot.txt names 2, the labels are 2 'x', 3 'boot_a', 4 'boot_b'",
        ),
        (("", "boot_a", "boot_a", "boot_b"), (), "names none, the labels are 2 'boot_a', 3 'boot_a', 4 'boot_b'"),
        (("", "boot_a", "", ""), (), "names none, the labels are 2 'boot_a', 3, 4"),
    ],
)
def test_what_is_ambiguous_is_refused_with_the_candidates(
    labels: tuple[str, ...], autoboot: tuple[int | None, ...], told: str
) -> None:
    with pytest.raises(AbbootError) as error:
        discover(labelled(*labels), autoboot=autoboot, name="card.img")

    assert str(error.value).startswith("cannot find the slots on card.img: 4 FAT partitions found (numbers 1, 2, 3, 4)")
    assert str(error.value).endswith(told)
    assert "slot_a" in error.value.hint


def test_of_two_candidates_nobody_is_asked() -> None:
    layout = discover(labelled("", "boot_b", "boot_b"), autoboot=(2, 9))

    assert (layout.a.number, layout.b.number) == (2, 3)


@given(
    labels=st.lists(st.sampled_from(["", "boot_a", "boot_b", "data"]), min_size=4, max_size=6),
    autoboot=st.lists(st.integers(0, 7), max_size=2),
)
def test_what_autoboot_txt_names_is_a_slot_or_all_is_refused(labels: list[str], autoboot: list[int]) -> None:
    """G4: else the slot that the firmware boots would be nobody's."""
    try:
        layout = discover(labelled(*labels), autoboot=autoboot)
    except AbbootError:
        return

    assert {number for number in autoboot if number} <= {layout.a.number, layout.b.number}


_TABLES = st.builds(
    lambda kind, types: table(*types, kind=kind),
    st.sampled_from(TableKind),
    st.lists(st.sampled_from([FAT, LINUX, "0x0f", ""]), max_size=8),
)
_NUMBERS = st.integers(0, 9)
_CONFIGURED = st.builds(
    Configured,
    selector=st.none() | _NUMBERS,
    slot_a=st.none() | _NUMBERS,
    slot_b=st.none() | _NUMBERS,
)


@given(found=_TABLES, journal=st.none() | st.tuples(_NUMBERS, _NUMBERS), configured=st.none() | _CONFIGURED)
def test_a_layout_is_three_different_bootable_fat_partitions(
    found: PartitionTable, journal: tuple[int, int] | None, configured: Configured | None
) -> None:
    try:
        layout = discover(found, journal_slots=journal, configured=configured)
    except AbbootError:
        return

    numbers = [layout.selector.number, layout.a.number, layout.b.number]
    assert len(set(numbers)) == 3
    assert layout.a.number < layout.b.number
    assert all(1 <= number <= LAST_BOOTABLE[found.kind] for number in numbers)
    assert all(part.is_fat and found.get(part.number) == part for part in (layout.selector, layout.a, layout.b))
    assert layout.selector == find_selector(found, configured=configured)
