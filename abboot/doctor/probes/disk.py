"""Hazards of the disk: partition table, selector, the slots and their command lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date

from abboot.core.autoboot import read_as_firmware
from abboot.core.cmdline import split_cmdline
from abboot.core.firmware import Model, opens_type
from abboot.core.hazards import Severity
from abboot.core.partition_table import Partition
from abboot.core.tree import shown
from abboot.core.words import FatType, Phase, Slot, TableKind
from abboot.doctor.facts import BootPartition, Card, Facts
from abboot.doctor.probe import Found, Unseen, card_of, is_gpt, is_pi5, known, probe, some, system_of, trees_of


@probe("H-13")
def _flag_for_files(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    if card.autoboot is None or card.problem:
        raise Unseen(card.problem or "there is no autoboot.txt to read (H-15)")
    if read_as_firmware(card.autoboot, tryboot=True).tryboot_a_b:
        return
    primary = card.slot(card.primary) if card.primary is not None else None
    net = primary is not None and primary.tree is not None and primary.tree.has("tryboot.txt")
    text = "autoboot.txt has no tryboot_a_b=1 that the firmware would see"
    if net:
        yield Found(text=f"{text}; the primary has a tryboot.txt", severity=Severity.SERIOUS)
    else:
        yield Found(text=f"{text}, and the primary has no tryboot.txt")


@probe("H-14")
def _firmware_on_selector(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    selector = card.partition(card.selector)
    if selector is None or selector.tree is None:
        raise Unseen(card.problem or (selector.problem if selector else "") or "the selector cannot be read")
    firmware = re.compile(r"start[^/]*\.elf|config\.txt|kernel[^/]*\.img|boot\.img", re.IGNORECASE)
    found = sorted(path for path in selector.tree.files if firmware.fullmatch(path))
    if found:
        yield Found(text=f"the selector (partition {card.selector}) has {some(found)}")


@probe("H-15")
def _broken_autoboot(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    if card.problem:
        raise Unseen(card.problem)
    if card.autoboot is None:
        yield Found(text=card.autoboot_problem or "there is no autoboot.txt")
    elif not read_as_firmware(card.autoboot, tryboot=False).boot_partition:
        yield Found(text=f"the firmware finds no boot_partition in autoboot.txt: {card.autoboot_problem}")


def _autoboot_lines(facts: Facts) -> list[str]:
    card = card_of(facts)
    if card.autoboot is None or card.problem:
        raise Unseen(card.problem or "there is no autoboot.txt to read (H-15)")
    return card.autoboot[:4096].decode("latin-1").split("\n")


@probe("H-16")
def _autoboot_form(facts: Facts) -> Iterator[Found]:
    lines = _autoboot_lines(facts)
    raw = card_of(facts).autoboot or b""
    if len(raw) > 512:
        yield Found(text=f"autoboot.txt has {len(raw)} bytes")
    if raw.startswith(b"\xef\xbb\xbf"):
        yield Found(text="autoboot.txt begins with a byte order mark")
    if any(line.endswith("\r") for line in lines):
        yield Found(text="the lines of autoboot.txt end with CR LF")
    for number, line in enumerate(lines[:64], 1):
        text = line.rstrip("\r")
        if not text or text.startswith("#"):
            continue
        if text.startswith("["):
            odd = text not in ("[all]", "[tryboot]", "[none]")
        else:
            odd = not re.fullmatch(r"(boot_partition|tryboot_a_b)=[0-9]{1,2}", text)
        if odd:
            yield Found(text=f"line {number} of autoboot.txt is {shown(repr(text))}")
            return  # one is enough: the file is rewritten as a whole


@probe("H-17")
def _autoboot_order(facts: Facts) -> Iterator[Found]:
    section, seen = "", set()
    for number, line in enumerate(_autoboot_lines(facts)[:64], 1):
        text = line.rstrip("\r")
        if text.startswith("["):
            if text == "[all]" and section == "[tryboot]":
                yield Found(text=f"line {number} of autoboot.txt: [all] comes after [tryboot]")
            section = text
            continue
        key, equals, _value = text.partition("=")
        if not equals or text.startswith("#"):
            continue
        if (section, key) in seen:
            yield Found(text=f"line {number} of autoboot.txt sets {shown(key)} a second time")
        seen.add((section, key))


@probe("H-18")
def _names_nothing(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    _autoboot_lines(facts)
    table = known(card.table, card.problem)
    for tryboot, section in ((False, "[all]"), (True, "[tryboot]")):
        number = read_as_firmware(card.autoboot, tryboot=tryboot).boot_partition
        named = f"{section} of autoboot.txt names partition {number}"
        found = table.get(number)
        if number == 0:
            continue  # H-15
        if found is None:
            yield Found(text=f"{named}, which does not exist")
        elif table.kind is TableKind.MBR and (number > 4 or found.is_extended):
            yield Found(text=f"{named}, which is {'extended' if found.is_extended else 'logical'}")
        elif not found.is_fat:
            yield Found(text=f"{named}, which has the type {found.type_id}, not FAT")
        elif number == card.selector:
            yield Found(text=f"{named}, the selector")
        elif (there := card.partition(number)) is not None and there.tree is None:
            yield Found(text=f"{named}, which cannot be read: {there.problem}")
        elif there is not None and there.tree is not None and not there.tree.looks_bootable:
            yield Found(text=f"{named}, which holds no boot files")


@probe("H-19")
def _third_slot(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    if card.problem:
        raise Unseen(card.problem)
    walks = facts.system.board.walk_enabled if facts.system is not None and facts.system.board is not None else True
    ours = {card.selector, *card.slots.values()}
    for other in card.partitions:
        if walks and other.partition.number not in ours and other.tree is not None and other.tree.looks_bootable:
            yield Found(text=f"partition {other.partition.number} is no slot, and has boot files")
    if card.phase is Phase.FOREIGN:
        yield Found(text=card.reason, remedy="return to the primary: a plain reboot, or `abboot repair`")


@probe("H-41")
def _gpt_array_moved(facts: Facts) -> Iterator[Found]:
    if not is_gpt(facts):
        return
    block = known(card_of(facts).gpt_entries_lba, "the GPT header cannot be read")
    if block == 2:
        return
    built = facts.system.bootloader if facts.system is not None else None
    # The Pi 5's release of 2024-10-10 was built the day before (BUILD_TIMESTAMP of pieeprom-2024-10-10.bin).
    fixed = date(2024, 10, 9) if is_pi5(facts) else date(2024, 10, 10)
    if built is None:
        yield Found(text=f"the entries of the GPT begin at block {block}", severity=Severity.SERIOUS)
    elif built < fixed:
        yield Found(text=f"the entries of the GPT begin at block {block}, and the bootloader is of {built}")


@probe("H-42")
def _unreadable_volume(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    table = known(card.table, card.problem)
    board = facts.system.board if facts.system is not None else None
    for found in card.partitions:
        name = f"partition {found.partition.number}"
        if found.exfat:
            yield Found(text=f"{name} is exFAT")
        if found.partition.number == card.selector and found.fat is FatType.FAT12:
            yield Found(text=f"the selector ({name}) is FAT12", severity=Severity.ADVICE)
        if found.partition.number not in {card.selector, *card.slots.values()}:
            continue
        type_id = found.partition.type_id
        if board is not None and opens_type(board, type_id) is False:
            yield Found(text=f"{name} has the type {type_id}, which a {board.model.full_name} does not open")
        elif table.kind is TableKind.MBR and type_id not in ("0x0b", "0x0c", "0x0e"):
            text = f"{name} has the type {type_id}, which not every firmware opens"
            yield Found(text=text, severity=Severity.ADVICE)
        if board is not None and board.model is Model.CM3 and found.fat is FatType.FAT16:
            yield Found(text=f"{name} is FAT16, which the ROM of some Compute Modules 3 does not read")
    first_fat = next((partition.number for partition in table.partitions if partition.is_fat), None)
    for partition in table.partitions:
        if partition.type_id == "0x07" and first_fat is not None and partition.number < first_fat:
            yield Found(text=f"partition {partition.number} has the type 0x07, before the first FAT")


@probe("H-43")
def _full_volume(facts: Facts) -> Iterator[Found]:
    built = facts.system.bootloader if facts.system is not None else None
    if built is not None and built >= date(2024, 1, 18):
        return
    for found in _ours(card_of(facts)):
        if found.free_clusters == 0:
            yield Found(text=f"partition {found.partition.number} is full")


@probe("H-45")
def _dirty_volume(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    for found in _ours(card):
        if found.dirty:
            yield Found(text=f"partition {found.partition.number} was not unmounted cleanly")
        elif found.mounted_at and found.writable:
            text = f"partition {found.partition.number} is mounted read-write on {found.mounted_at}"
            yield Found(text=text, severity=Severity.ADVICE)


def _ours(card: Card) -> list[BootPartition]:
    if card.problem:
        raise Unseen(card.problem)
    numbers = {card.selector, *card.slots.values()}
    return [found for found in card.partitions if found.partition.number in numbers]


_ROOT = re.compile(
    r"PARTUUID=(?P<id>[0-9a-fA-F]{8})-(?P<uuid>[0-9a-fA-F]{2})|/dev/(?P<disk>mmcblk0|nvme0n1)p(?P<node>[0-9]{1,3})"
)
_PAIRED = re.compile(r"(?P<stem>.*?)[ _-]?(?P<slot>[ab])", re.IGNORECASE)


@probe("H-34")
def _wrong_root(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    table = known(card.table, card.problem)
    roots: dict[Slot, str] = {}
    for slot in Slot:
        there = card.slot(slot)
        tree = there.tree if there is not None else None
        if tree is None or tree.cmdline is None or "[boot_partition=" in (tree.config or ""):
            continue  # the latter chooses the command line by itself (config_txt/conditional.adoc)
        roots[slot] = root = _root_of(tree.cmdline)
        number = _partition_of(root, table.disk_id)
        if number is not None and table.get(number) is None:
            yield Found(text=f"slot {slot} has root={shown(root)}, and this disk has no partition {number}")
        named = _name_of(root, card)
        paired = _PAIRED.fullmatch(named)
        others = [partition.name.lower() for partition in table.partitions]
        if paired and paired["slot"].lower() != slot and _swapped(named, slot) in others:
            yield Found(text=f"slot {slot} has root={shown(root)}, which is {shown(named)}")
    if len(roots) == len(Slot) and roots[Slot.A] == roots[Slot.B]:
        shared = table.get(_partition_of(roots[Slot.A], table.disk_id) or 0)
        twins = [other.number for other in table.partitions if shared and _are_twins(shared, other)]
        if twins:
            text = f"both slots have root={shown(roots[Slot.A])}, and partition {twins[0]} has the same size"
            yield Found(text=f"{text}: the root file system of the other slot?", severity=Severity.ADVICE)
    yield from _wrong_mount(facts)
    if not roots and facts.system is None:
        raise Unseen("no cmdline.txt can be read")


def _are_twins(one: Partition, other: Partition) -> bool:
    return one.number != other.number and one.size == other.size and not one.is_fat and not other.is_fat


def _root_of(cmdline: str) -> str:
    values = [word.partition("=")[2].strip('"') for word in split_cmdline(cmdline) if word.startswith("root=")]
    return values[-1][:200] if values else ""


def _partition_of(root: str, disk_id: str) -> int | None:
    """The number of the partition of this very disk that ``root=`` names; ``None`` where it names something else."""
    match = _ROOT.fullmatch(root)
    if match is None:
        return None
    if match["id"] is not None:
        return int(match["uuid"], 16) if match["id"].lower() == disk_id else None
    return int(match["node"])


def _name_of(root: str, card: Card) -> str:
    """The GPT name of what ``root=`` names, if that is known."""
    assert card.table is not None
    if root.startswith("PARTLABEL="):
        return root.removeprefix("PARTLABEL=")
    found = card.table.get(_partition_of(root, card.table.disk_id) or 0)
    return found.name if found is not None else ""


def _swapped(name: str, slot: Slot) -> str:
    return f"{name[:-1]}{slot}".lower()


def _wrong_mount(facts: Facts) -> Iterator[Found]:
    system, card = facts.system, facts.card
    if system is None or card is None or card.booted is None or not system.boot_mounts:
        return
    numbers = {device: number for number, device in system.booted_nodes.items()}
    for path, device in system.boot_mounts.items():
        number = numbers.get(device)
        slot = next((slot for slot, slot_number in card.slots.items() if slot_number == number), None)
        if slot is not None and slot is not card.booted:
            yield Found(text=f"slot {slot} (partition {number}) is mounted on {path}, and slot {card.booted} is booted")


@probe("H-35")
def _pending_resize(facts: Facts) -> Iterator[Found]:
    for tree in trees_of(facts):
        words = split_cmdline(tree.cmdline or "")
        for word in words:
            value = word.partition("=")[2]
            if word == "resize" or (word.startswith("init=") and re.search(r"init_resize|firstboot", value)):
                yield Found(text=f"the command line of {tree.name} has {shown(word)}")


@probe("H-53")
def _twin_disk(facts: Facts) -> Iterator[Found]:
    card = card_of(facts)
    others = known(system_of(facts).other_disks, "other disks cannot be seen from here")
    table = known(card.table, card.problem)
    labels = {found.label for found in card.partitions if found.label}
    for disk in others:
        if disk.disk_id == table.disk_id and disk.disk_id.strip("0-"):
            yield Found(text=f"{disk.name} has the same id {disk.disk_id} as {card.name}, so the same PARTUUIDs")
        elif shared := sorted(labels & set(disk.labels)):
            yield Found(text=f"{disk.name} has volumes of the same name: {some(shared)}")
