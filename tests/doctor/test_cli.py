"""``abboot doctor`` as a command: what programs read, what people read, what the shell sees."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from abboot.cli.doctor import _text
from abboot.cli.render import Style
from abboot.core.hazards import HAZARDS
from abboot.doctor import examine_tree
from tests import cards
from tests.cli.command import abboot, everything_in, new_card, refused, said
from tests.doctor.bench import PI4, Bench, clean_files


@pytest.fixture
def sick(tmp_path: Path) -> str:
    """A board with something critical, something serious and something that is only advice."""
    bench = Bench(tmp_path)
    bench.board(PI4, date(2021, 4, 29))
    bench.files["etc/kernel/postinst.d/z50-raspi-firmware"] = "cp kernel /boot/firmware/\n"
    bench.eeprom("")
    return bench.sysroot()


def test_something_critical_is_exit_code_1(sick: str) -> None:
    told = said("--sysroot", sick, "doctor", code=1)

    assert told["ok"] is False
    assert [(finding["id"], finding["severity"]) for finding in told["findings"]] == [
        ("H-01", "critical"),
        ("H-36", "serious"),
        ("H-49", "advice"),
    ]
    assert told["findings"][0]["found"] == "the bootloader is of 2021-04-29"
    assert "rpi-eeprom-update" in told["findings"][0]["remedy"]


def test_every_hazard_is_found_clear_or_unseen(sick: str) -> None:
    told = said("--sysroot", sick, "doctor", code=1)

    found, clear = {finding["id"] for finding in told["findings"]}, set(told["clear"])
    unseen = {item["id"] for item in told["unseen"]}
    assert found | clear | unseen == set(HAZARDS)
    assert len(found) + len(clear) + len(unseen) == len(HAZARDS)


def test_a_clean_board_is_exit_code_0(tmp_path: Path) -> None:
    told = said("--sysroot", Bench(tmp_path).sysroot(), "doctor")

    assert (told["ok"], told["findings"], told["fixed"]) == (True, [], None)
    assert told["recovery"]["tree"] == "slot b"
    assert len(told["recovery"]["failures"]) == 12


def test_offline_only_the_disk_counts(sick: str) -> None:
    told = said("--sysroot", sick, "doctor", "--offline")

    assert (told["ok"], told["findings"]) == (True, [])
    assert {"id": "H-01", "why": "no running system was looked at"} in told["unseen"]


def test_a_card_on_the_desk_and_a_simulated_pi_are_looked_at(tmp_path: Path) -> None:
    card = new_card(tmp_path)
    before = everything_in(tmp_path)

    desk = said("--disk", card, "doctor")
    simulated = said("--sim", card, "doctor")

    assert [finding["id"] for finding in desk["findings"]] == ["H-28", "H-28"]  # made-up device trees
    assert "H-01" in {item["id"] for item in desk["unseen"]}
    assert "H-01" in simulated["clear"]
    assert everything_in(tmp_path) == before


def test_an_old_bootloader_of_a_simulated_pi_is_found(tmp_path: Path) -> None:
    card = new_card(tmp_path)
    said("simulate", "boot", card, "--bootloader", "2021-04-29")

    told = said("--sim", card, "doctor", code=1)

    assert "H-01" in [finding["id"] for finding in told["findings"]]


def test_a_tree_is_fixed_and_the_next_stage_has_nothing_to_warn_about(tmp_path: Path) -> None:
    files = clean_files() | {"config.txt": b"arm_64bit=1\n", "cmdline.txt": b"root=LABEL=root\n"}
    tree = cards.write_tree(tmp_path / "tree", files)
    card = new_card(tmp_path)
    assert len(said("--sim", card, "stage", tree, "--dry-run")["warnings"]) == 2

    told = said("doctor", "--fix", tree)

    assert told["fixed"]["changed"] == ["config.txt", "cmdline.txt"]
    assert "+kernel_watchdog_timeout=120" in told["fixed"]["diff"].splitlines()
    assert (told["ok"], told["findings"]) == (True, [])
    assert (told["fixed"]["tree"], told["recovery"]["tree"]) == (str(tree), "the tree")
    assert said("doctor", "--fix", tree)["fixed"]["changed"] == []
    assert said("--sim", card, "stage", tree, "--dry-run")["warnings"] == []


def test_what_brings_a_tree_back_depends_on_the_board(sick: str, tmp_path: Path) -> None:
    tree = cards.write_tree(tmp_path / "tree", clean_files())

    told = said("--sysroot", sick, "doctor", "--fix", tree, code=1)

    assert [finding["id"] for finding in told["findings"]] == ["H-01", "H-36", "H-49"]
    rows = {row["failure"]: row["comes_back"] for row in told["recovery"]["failures"]}
    assert (rows["the service manager hangs later"], rows["a health check fails"]) == (True, False)


def test_a_missing_tree_is_refused() -> None:
    assert refused("doctor", "--fix", "/nonexistent/tree")["message"].startswith("cannot read the tree")


# -- text -------------------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_each_says_what_helps(sick: str) -> None:
    ran = abboot("--sysroot", sick, "doctor")

    assert (ran.code, ran.err) == (1, "")
    heads = [line for line in ran.out.splitlines() if re.match(r"(critical|serious|advice): ", line)]
    assert [head.partition(":")[0] for head in heads] == ["critical", "serious", "advice"]
    assert "  H-01 the bootloader ignores sections of autoboot.txt" in ran.out.splitlines()
    assert "found   the bootloader is of 2021-04-29" in ran.out
    assert "\n1 critical, 1 serious, 1 advice; " in ran.out


def test_the_table_of_what_brings_it_back_is_printed(sick: str) -> None:
    lines = abboot("--sysroot", sick, "doctor").out.splitlines()

    start = lines.index("what brings it back, in a trial of slot b:")
    assert lines[start + 1].split() == ["by", "itself", "when:", "what", "does"]
    table = "\n".join(lines[start:])
    assert re.search(r"\nyes +the kernel panics .*: panic=10 in cmdline.txt", table)
    assert re.search(r"\nno +a health check fails: a person", table)


def test_the_same_hazard_in_both_slots_is_told_once(tmp_path: Path) -> None:
    lines = abboot("--disk", new_card(tmp_path), "doctor").out.splitlines()

    assert len([line for line in lines if line.startswith("  H-28 ")]) == 1
    assert len([line for line in lines if line.strip().startswith("found ")]) == 2


def test_a_disk_without_a_partition_table_is_not_called_well(tmp_path: Path) -> None:
    (tmp_path / "empty.img").write_bytes(bytes(1 << 20))

    ran = abboot("--disk", tmp_path / "empty.img", "doctor")

    assert ran.code == 1
    assert ran.out.startswith("nothing can be seen\n")
    assert "no partition table found" in ran.out
    assert said("--disk", tmp_path / "empty.img", "doctor", code=1)["ok"] is False


def test_nothing_is_fixed_with_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    tree = cards.write_tree(tmp_path / "tree", {"config.txt": b"a=1\n"})
    (tmp_path / "abboot.toml").write_text("[trial]\nattempts = 99\n")

    assert "attempts" in refused("--config", tmp_path / "abboot.toml", "doctor", "--fix", tree)["message"]
    assert (tree / "config.txt").read_bytes() == b"a=1\n"


def test_what_cannot_be_seen_is_listed_on_request(tmp_path: Path) -> None:
    card = new_card(tmp_path)

    assert "H-37" not in abboot("--disk", card, "doctor").out
    assert "H-37 an updater overwrites the booted slot: it is a fault" in abboot("--disk", card, "doctor", "-v").out


def test_severities_have_colours_on_a_terminal_and_lines_fit(tmp_path: Path) -> None:
    tree = cards.write_tree(tmp_path / "tree", cards.tree_files("v1"))
    (tree / "recovery.bin").write_bytes(b"x")
    report = examine_tree(str(tree))

    text = _text(Style(colour=True, width=80), report, None, verbose=True)

    assert "\033[1;31mcritical\033[0m" in text
    plain = re.sub(r"\033\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= 80
