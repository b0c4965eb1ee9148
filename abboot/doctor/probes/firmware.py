"""Hazards of bootloader and firmware: their build dates, and what they do with this board."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import pairwise

import attrs

from abboot.core.firmware import Family, Model, proves_ab_support
from abboot.core.hazards import Severity
from abboot.core.tree import FIRST_FOR_TRIALS, config_settings, shown
from abboot.core.words import TableKind
from abboot.doctor.facts import Card, Facts, Tree
from abboot.doctor.probe import (
    Found,
    Unseen,
    board_of,
    bootloader_of,
    card_of,
    eeprom_of,
    is_gpt,
    is_pi5,
    is_signed,
    known,
    probe,
    remarks,
    start_builds,
    system_of,
    trees_of,
)


@probe("H-01")
def _ignores_sections(facts: Facts) -> Iterator[Found]:
    board = board_of(facts)
    if board.family is Family.PI5:
        return
    built = bootloader_of(facts)
    if proves_ab_support(board.family, built) is False:
        yield Found(text=f"the bootloader is of {built}")


@probe("H-02")
def _old_start_elf(facts: Facts) -> Iterator[Found]:
    for tree, name, built in start_builds(facts):
        if built < FIRST_FOR_TRIALS:
            beside = ", with a tryboot.txt beside it" if tree.has("tryboot.txt") else ""
            yield Found(text=f"{name} of {tree.name} is of {built}{beside}")


@probe("H-03")
def _gpt_start_elf(facts: Facts) -> Iterator[Found]:
    if not is_gpt(facts):
        return
    for tree, name, built in start_builds(facts):
        if built < date(2025, 1, 16):
            yield Found(text=f"the disk has a GPT, and {name} of {tree.name} is of {built}")


@probe("H-04")
def _linux_before_slots(facts: Facts) -> Iterator[Found]:
    if not is_gpt(facts) or is_pi5(facts):
        return
    for name, number in _behind_linux(card_of(facts)):
        yield Found(text=f"{name} is partition {number} of a GPT, behind one that is not FAT")


def _behind_linux(card: Card) -> Iterator[tuple[str, int]]:
    assert card.table is not None
    foreign = [partition.number for partition in card.table.partitions if not partition.is_fat]
    for slot, number in card.slots.items():
        if any(other < number for other in foreign):
            yield f"slot {slot}", number


@probe("H-05")
def _out_of_order(facts: Facts) -> Iterator[Found]:
    if is_gpt(facts) or is_pi5(facts):
        return
    table = known(card_of(facts).table, card_of(facts).problem)
    primaries = [partition for partition in table.partitions if partition.number <= 4]
    wrong = [(a, b) for a, b in pairwise(primaries) if a.start > b.start]
    if not wrong:
        return
    before, after = wrong[0]
    where = f"partition {after.number} lies before partition {before.number}"
    old = [(tree, name, built) for tree, name, built in start_builds(facts) if built < date(2025, 5, 10)]
    for tree, name, built in old:
        yield Found(text=f"{where}, and {name} of {tree.name} is of {built}")


@probe("H-06")
def _pi5_gpt(facts: Facts) -> Iterator[Found]:
    if not is_gpt(facts) or board_of(facts).family is not Family.PI5:
        return
    mixed = next(_behind_linux(card_of(facts)), None)
    if mixed is not None:
        yield Found(text=f"a Pi 5, and a GPT with {mixed[0]} behind a partition that is not FAT")
    else:
        text = "a Pi 5, and a GPT with its FAT partitions in front: reported to work, and reported not to"
        yield Found(text=text, severity=Severity.SERIOUS)


@probe("H-07")
def _reports_partition_0(facts: Facts) -> Iterator[Found]:
    if board_of(facts).family is Family.PI5 and (built := bootloader_of(facts)) < date(2024, 5, 13):
        yield Found(text=f"the bootloader of this Pi 5 is of {built}")


@probe("H-08")
def _loses_request(facts: Facts) -> Iterator[Found]:
    board = board_of(facts)
    if board.keeps_rsts is False:
        report = system_of(facts).report
        rsts = report.rsts if report is not None else None
        seen = f"; rsts is {rsts:#x}" if rsts is not None else ""
        yield Found(text=f"this is a {board.model.full_name} Rev {board.revision}{seen}")
    elif board.model is Model.CM4 and known(system_of(facts).booted_from_sd, "nobody says whether this CM4 has eMMC"):
        yield Found(text="this Compute Module 4 runs from an SD card", severity=Severity.ADVICE)


@probe("H-09")
def _protected_eeprom(facts: Facts) -> Iterator[Found]:
    board = board_of(facts)
    if board.model is not Model.PI_4 or board.revision not in ("1.0", "1.1"):
        return
    for tree in _protecting(facts):
        yield Found(text=f"this is a Pi 4B Rev {board.revision}, and config.txt of {tree.name} protects the EEPROM")


def _protecting(facts: Facts) -> list[Tree]:
    return [tree for tree in trees_of(facts) if config_settings(tree.config or "").get("eeprom_write_protect") == "1"]


_UPDATES = ("recovery.bin", "pieeprom.upd", "pieeprom.sig", "vl805.bin", "vl805.sig")


@probe("H-10")
def _update_of_protected_eeprom(facts: Facts) -> Iterator[Found]:
    protecting = _protecting(facts)
    selector = facts.card.partition(facts.card.selector) if facts.card is not None else None
    places = [*trees_of(facts), *([selector.tree] if selector is not None and selector.tree is not None else [])]
    pending = [f"{name} on {tree.name}" for tree in places for name in _UPDATES[:2] if tree.has(name)]
    if not protecting or not pending:
        return
    # From an image nobody knows which bootloader will meet it.
    built = facts.system.bootloader if facts.system is not None else None
    if built is None or built < date(2024, 9, 5):
        yield Found(text=f"{', '.join(pending)}, and config.txt of {protecting[0].name} protects the EEPROM")


@probe("H-11")
def _update_in_slot(facts: Facts) -> Iterator[Found]:
    yield from remarks(facts, "H-11")


@probe("H-48")
def _rescue_in_slot(facts: Facts) -> Iterator[Found]:
    yield from remarks(facts, "H-48")


@probe("H-24")
def _hangs(facts: Facts) -> Iterator[Found]:
    yield from remarks(facts, "H-24")


@probe("H-20")
def _walk_poisoned(facts: Facts) -> Iterator[Found]:
    if board_of(facts).family is Family.PI4 and date(2025, 2, 11) <= (built := bootloader_of(facts)) < date(
        2025, 8, 20
    ):
        yield Found(text=f"the bootloader is of {built}")


_BIT10 = (date(2025, 6, 20), date(2025, 10, 8))


@probe("H-21")
def _partition_32(facts: Facts) -> Iterator[Found]:
    system = facts.system
    if system is not None and system.bootloader is not None and _BIT10[0] <= system.bootloader < _BIT10[1]:
        yield Found(text=f"the bootloader is of {system.bootloader}")
    if system is not None and system.report is not None and (system.report.rsts or 0) & 0x400:
        yield Found(text=f"rsts is {system.report.rsts:#x}: this boot began with a request for partition 32 or above")
    for tree, name, built in start_builds(facts):
        if _BIT10[0] <= built < _BIT10[1]:
            yield Found(text=f"{name} of {tree.name} is of {built}")


@probe("H-22")
def _eeprom_partition(facts: Facts) -> Iterator[Found]:
    if board_of(facts).family is Family.PI0_3:
        return
    value = eeprom_of(facts).get("PARTITION", "0")
    if value not in ("", "0"):
        yield Found(text=f"the bootloader's configuration has PARTITION={shown(value)}")


@probe("H-23")
def _watchdog_partition(facts: Facts) -> Iterator[Found]:
    for tree in trees_of(facts):
        value = config_settings(tree.config or "").get("kernel_watchdog_partition", "0")
        if value not in ("", "0"):
            yield Found(text=f"config.txt of {tree.name} has kernel_watchdog_partition={shown(value)}")
    if board_of(facts).family is not Family.PI0_3:
        value = eeprom_of(facts).get("BOOT_WATCHDOG_PARTITION", "0")
        if value not in ("", "0"):
            yield Found(text=f"the bootloader's configuration has BOOT_WATCHDOG_PARTITION={shown(value)}")


@probe("H-27")
def _boot_watchdog_signed(facts: Facts) -> Iterator[Found]:
    if (
        board_of(facts).family is not Family.PI5
        or not is_signed(facts)
        or (built := bootloader_of(facts)) >= date(2026, 6, 17)
    ):
        return
    value = eeprom_of(facts).get("BOOT_WATCHDOG_TIMEOUT", "0")
    if value not in ("", "0"):
        yield Found(text=f"signed boot, a bootloader of {built}, and BOOT_WATCHDOG_TIMEOUT={shown(value)}")


@probe("H-32")
def _flag_in_secure_boot(facts: Facts) -> Iterator[Found]:
    if is_signed(facts) and not attrs.evolve(board_of(facts), bootloader=bootloader_of(facts)).tryboot_in_secure_boot:
        yield Found(text=f"signed boot, and a bootloader of {bootloader_of(facts)}")


@probe("H-33")
def _secure_boot_files(facts: Facts) -> Iterator[Found]:
    if not is_signed(facts):
        return
    for tree in facts.trees:
        missing = [name for name in ("boot.img", "boot.sig") if not tree.has(name)]
        if missing:
            yield Found(text=f"signed boot, and {tree.name} has no {' and no '.join(missing)}")
    if (built := bootloader_of(facts)) < date(2026, 2, 23):
        yield Found(text=f"signed boot, and a bootloader of {built}: no partition walk", severity=Severity.ADVICE)


@probe("H-39")
def _mixed_bootcode(facts: Facts) -> Iterator[Found]:
    if facts.system is not None and board_of(facts).family is not Family.PI0_3:
        return
    card = card_of(facts)
    selector = card.partition(card.selector)
    if selector is None or selector.tree is None:
        raise Unseen("the selector cannot be read")
    if not selector.tree.has("bootcode.bin"):
        return  # no Pi 0 to 3 boots this card
    for tree in trees_of(facts):
        if tree.bootcode is not None and tree.bootcode != selector.tree.bootcode:
            yield Found(text=f"bootcode.bin on the selector is not the one of {tree.name}")


@probe("H-40")
def _flag_on_old_boards(facts: Facts) -> Iterator[Found]:
    board = board_of(facts)
    if board.family is Family.PI0_3:
        yield Found(text=f"this is a {board.model.full_name}")


@probe("H-44")
def _short_names(facts: Facts) -> Iterator[Found]:
    if board_of(facts).family is Family.PI5 and (built := bootloader_of(facts)) < date(2024, 1, 5):
        yield Found(text=f"the bootloader of this Pi 5 is of {built}")


@probe("H-49")
def _waits_for_ever(facts: Facts) -> Iterator[Found]:
    board = board_of(facts)
    if board.family is Family.PI0_3:
        yield Found(text=f"the firmware of a {board.model.full_name} always does")
        return
    eeprom = system_of(facts).eeprom
    if eeprom is not None and eeprom.get("BOOT_WATCHDOG_TIMEOUT", "0") not in ("", "0"):
        return
    if (built := bootloader_of(facts)) < date(2026, 4, 14):
        yield Found(text=f"the bootloader is of {built}, and no BOOT_WATCHDOG_TIMEOUT is known to be set")
    elif eeprom is not None and eeprom.get("REBOOT_ON_FATAL_ERROR") == "0":
        yield Found(text="the bootloader's configuration has REBOOT_ON_FATAL_ERROR=0")


@probe("H-50")
def _older_way_back(facts: Facts) -> Iterator[Found]:
    if facts.folder is not None:
        raise Unseen("only one tree was looked at")
    builds: dict[str, list[tuple[date, Tree]]] = {}
    for tree, name, built in start_builds(facts):
        builds.setdefault(name, []).append((built, tree))
    steps = [FIRST_FOR_TRIALS]
    if facts.card is not None and facts.card.table is not None and facts.card.table.kind is TableKind.GPT:
        steps.append(date(2025, 1, 16))
    for name, found in builds.items():
        (older, old_tree), (newer, new_tree) = min(found, key=_when), max(found, key=_when)
        if any(older < step <= newer for step in steps):
            yield Found(text=f"{name} of {old_tree.name} is of {older}, that of {new_tree.name} of {newer}")


def _when(item: tuple[date, Tree]) -> date:
    return item[0]
