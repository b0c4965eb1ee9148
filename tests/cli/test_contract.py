"""The contract of the command line: verbs, keys, words, exit codes, and what is written where."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from abboot.cli.parser import SPECS
from abboot.core import words
from tests import cards
from tests.cli.command import (
    VERBS,
    abboot,
    command,
    environment,
    everything_in,
    judge,
    new_card,
    process,
    refused,
    said,
    schema,
    schema_names,
)
from tests.linux.sysroots import FakePartition, make_sysroot

# What `--json` holds at least: the list that programs rely on.
AT_LEAST = {
    "status": "schema phase booted primary armed last_trial slots notes",
    "stage": "changed slot record_digest tree_digest bytes_total bytes_written files_written duration_s",
    "trial": "changed slot",
    "confirm": "verdict checks action",
    "commit": "changed phase_before phase_after",
    "revert": "changed phase_before phase_after",
    "verify": "ok missing changed extra",
    "log": "entries",
    "repair": "changed steps",
    "doctor": "findings ok",
    "image-build": "partitions slots",
    "image-inspect": "partitions slots",
    "simulate": "partition slot tryboot config why",
}
SLOT_AT_LEAST = {"partition", "state", "record"}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return new_card(tmp_path)


# -- the whole life ----------------------------------------------------------------------------------------------------


def test_the_whole_life_of_a_device(card: Path) -> None:
    sim = ("--sim", card)

    fresh = said(*sim, "status")
    assert (fresh["phase"], fresh["booted"], fresh["primary"], fresh["armed"]) == ("settled", "a", "a", None)
    assert fresh["last_trial"] is None
    assert {slot: info["state"] for slot, info in fresh["slots"].items()} == {"a": "good", "b": "good"}
    assert fresh["power_cut"]["partition"] == 2

    staged = said(*sim, "stage", cards.tree("v2"), "--label", "second", "--annotate", "ticket=42")
    assert (staged["changed"], staged["slot"]) == (True, "b")
    assert staged["bytes_total"] == sum(len(data) for data in cards.tree_files("v2").values())
    assert 0 < staged["files_written"] <= len(cards.tree_files("v2"))
    again = said(*sim, "stage", cards.tree("v2"), "--label", "second", "--annotate", "ticket=42")
    assert (again["changed"], again["bytes_written"]) == (False, 0)
    assert again["record_digest"] == staged["record_digest"]
    shown = said(*sim, "status")["slots"]["b"]
    assert (shown["state"], shown["partition"], shown["label"]) == ("staged", 3, "second")
    assert shown["record"]["annotations"] == {"ticket": "42"}

    tried = said(*sim, "trial", "--record", staged["record_digest"])
    assert (tried["changed"], tried["slot"], tried["rebooting"]) == (True, "b", True)
    assert (tried["boot"]["partition"], tried["boot"]["tryboot"], tried["boot"]["config"]) == (3, True, "config.txt")
    in_trial = said(*sim, "status")
    assert (in_trial["phase"], in_trial["booted"], in_trial["primary"]) == ("trial", "b", "a")
    assert in_trial["power_cut"]["slot"] == "a"

    confirmed = said(*sim, "confirm")
    assert (confirmed["verdict"], confirmed["action"], confirmed["checks"]) == ("healthy", "committed", [])
    settled = said(*sim, "status")
    assert (settled["phase"], settled["booted"], settled["primary"]) == ("settled", "b", "b")
    assert settled["last_trial"]["outcome"] == "committed"
    assert settled["slots"]["b"]["state"] == "good"
    assert said(*sim, "commit")["changed"] is False

    cut = said("simulate", "power-cut", card)
    assert (cut["slot"], cut["tryboot"]) == ("b", False)

    said(*sim, "stage", cards.tree("unbootable"))
    fell = said(*sim, "trial")
    assert (fell["slot"], fell["boot"]["slot"]) == ("a", "b")
    noted = said(*sim, "confirm")
    assert (noted["verdict"], noted["action"], noted["outcome"]) == ("none", "noted", "unbootable")
    assert said(*sim, "status")["slots"]["a"]["state"] == "failed"
    assert "failed" in refused(*sim, "trial")["message"]

    said(*sim, "stage", cards.tree("v3"))
    said(*sim, "trial")
    left = said(*sim, "revert", "--reason", "the fan is loud")
    assert (left["phase_before"], left["boot"]["slot"]) == ("trial", "b")
    assert said(*sim, "confirm")["outcome"] == "reverted"
    assert said(*sim, "status")["last_trial"]["reason"] == "the fan is loud"

    assert said(*sim, "repair") == {"schema": 1, "changed": False, "steps": [], "rebooting": False}
    assert said(*sim, "verify")["ok"] is True
    told = [entry["transition"] for entry in said(*sim, "log")["entries"]]
    assert told[:7] == ["built", "staging", "staged", "armed", "started", "committing", "committed"]
    assert told[-1] == "concluded"


def test_an_arm_can_be_cancelled(card: Path) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    armed = said("--sim", card, "trial", "--no-reboot")
    assert (armed["phase_before"], armed["phase_after"], armed["rebooting"]) == ("settled", "armed", False)
    assert "boot" not in armed
    shown = said("--sim", card, "status")
    assert (shown["phase"], shown["armed"], shown["tryboot_flag"]) == ("armed", "b", True)

    assert said("--sim", card, "revert")["phase_after"] == "settled"

    shown = said("--sim", card, "status")
    assert (shown["phase"], shown["tryboot_flag"], shown["last_trial"]["outcome"]) == ("settled", False, "disarmed")


def test_going_back_after_a_commit_is_a_trial(card: Path) -> None:
    for verb in (("stage", cards.tree("v2")), ("trial",), ("commit",)):
        said("--sim", card, *verb)

    back = said("--sim", card, "revert")

    assert (back["slot"], back["boot"]["slot"], back["boot"]["tryboot"]) == ("a", "a", True)
    assert said("--sim", card, "commit")["changed"] is True
    assert said("--sim", card, "status")["primary"] == "a"


def test_a_damaged_autoboot_txt_is_repaired_and_the_primary_stays(card: Path) -> None:
    for verb in (("stage", cards.tree("v2")), ("trial",), ("commit",)):
        said("--sim", card, *verb)
    text = b"[all]\ntryboot_a_b=1\nboot_partition=3\n[tryboot]\nboot_partition=3\n"
    image = card.read_bytes()
    assert image.count(text) == 1
    card.write_bytes(image.replace(text, b"?" * len(text)))
    planned = said("--sim", card, "repair", "--dry-run")
    assert (planned["changed"], len(planned["steps"])) == (True, 1), "what would change"
    assert card.read_bytes().count(b"?" * len(text)) == 1

    assert said("--sim", card, "repair")["changed"] is True

    assert card.read_bytes().count(text) == 1
    shown = said("--sim", card, "status")
    assert (shown["phase"], shown["primary"]) == ("settled", "b")


def test_dry_runs_say_what_would_change_and_change_nothing(card: Path) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial", "--no-reboot")
    before = everything_in(card.parent)

    same = said("--sim", card, "stage", cards.tree("v2"), "--dry-run")
    other = said("--sim", card, "stage", cards.tree("v3"), "--dry-run")
    repaired = said("--sim", card, "repair", "--dry-run")

    assert (same["changed"], same["bytes_written"]) == (True, 0), "it would disarm"
    assert other["changed"] is True
    assert other["bytes_written"] > 0
    assert (repaired["changed"], repaired["steps"]) == (False, [])
    assert everything_in(card.parent) == before


def test_without_the_folder_beside_the_image_the_pi_was_just_switched_on(card: Path) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial", "--no-reboot")
    shutil.rmtree(f"{card}.pi")

    shown = said("--sim", card, "status")

    assert (shown["phase"], shown["tryboot_flag"], shown["booted"]) == ("settled", False, "a")
    assert shown["last_trial"]["outcome"] == "not_reached"
    assert said("--sim", card, "confirm")["outcome"] == "not_reached"
    told = said("--sim", card, "log")["entries"]
    assert told[-2]["transition"] == "armed"
    assert told[-2]["boot_id"] != told[-1]["boot_id"]


@pytest.mark.needs("mcopy")
def test_a_healthy_trial_that_cannot_be_committed_is_left_and_exits_with_1(card: Path, tmp_path: Path) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial")
    slot_b, _size = cards.CardDisk(card).place(3)
    subprocess.run(["mcopy", "-o", "-i", f"{card}@@{slot_b}", __file__, "::kernel8.img"], check=True)

    left = said("--sim", card, "confirm", code=1)

    assert (left["verdict"], left["action"], left["boot"]["slot"]) == ("healthy", "reverted", "a")
    assert said("--sim", card, "confirm")["outcome"] == "reverted"
    assert "kernel8.img" in said("--sim", card, "status")["last_trial"]["reason"]


def test_an_unhealthy_trial_is_left_and_exits_with_1(card: Path, tmp_path: Path) -> None:
    settings = tmp_path / "abboot.toml"
    settings.write_text(
        '[health]\nstable_for = "0s"\ndeadline = "3s"\n[[health.checks]]\nkind = "file"\nname = "proof"\n'
        'path = "/nonexistent/proof"\n'
    )
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial")

    unhealthy = said("--sim", card, "--config", settings, "confirm", code=1)

    assert (unhealthy["verdict"], unhealthy["action"]) == ("unhealthy", "reverted")
    assert [(check["name"], check["ok"]) for check in unhealthy["checks"]] == [("proof", False)]
    assert unhealthy["boot"]["slot"] == "a"


# -- the list of verbs and keys ----------------------------------------------------------------------------------------


def test_the_verbs_are_those_of_the_contract() -> None:
    assert set(SPECS) >= set(VERBS)


@pytest.mark.parametrize("name", AT_LEAST)
def test_a_schema_requires_what_programs_rely_on(name: str) -> None:
    assert set(AT_LEAST[name].split()) <= set(schema(name)["required"])
    if name == "status":
        assert set(schema(name)["properties"]["slots"]["properties"]["a"]["required"]) >= SLOT_AT_LEAST


@pytest.mark.parametrize("name", schema_names())
def test_a_schema_is_one_and_has_a_version(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    assert schema(name)["$id"] == f"urn:abboot:schema:1:{name}"
    if name not in ("common", "error"):
        assert schema(name)["properties"]["schema"] == {"$ref": "urn:abboot:schema:1:common#/$defs/schema"}


@pytest.mark.parametrize(
    ("name", "enum"),
    [
        ("slot", words.Slot),
        ("phase", words.Phase),
        ("state", words.SlotState),
        ("outcome", words.Outcome),
        ("trial_progress", words.TrialProgress),
        ("transition", words.Transition),
    ],
)
def test_the_words_of_the_schemas_are_those_of_the_code(name: str, enum: type[words.Slot]) -> None:
    assert schema("common")["$defs"][name]["enum"] == [str(word) for word in enum]


def test_the_judge_of_json_is_no_rubber_stamp(card: Path) -> None:
    data = said("--disk", card, "status")
    for wrong in ({**data, "phase": "SETTLED"}, {**data, "surprise": 1}, {**data, "schema": 2}):
        with pytest.raises(AssertionError):
            judge("status", wrong)


def test_an_image_offline_has_nobody_booted(card: Path) -> None:
    data = said("--disk", card, "status")

    assert (data["phase"], data["booted"], data["primary"]) == ("offline", None, "a")


def test_staging_an_image_offline_fills_the_slot_that_is_not_primary(card: Path) -> None:
    assert said("--disk", card, "stage", cards.tree("v2"))["slot"] == "b"
    assert said("--disk", card, "verify", "b")["ok"] is True
    for verb in ("trial", "commit", "revert"):
        assert refused("--disk", card, verb)["type"] == "Refused"


def test_a_dry_run_tells_the_bytes_and_writes_none(card: Path, tmp_path: Path) -> None:
    before = everything_in(tmp_path)

    planned = said("--disk", card, "stage", cards.tree("v2"), "--dry-run")

    assert everything_in(tmp_path) == before
    assert planned["bytes_written"] > 0
    assert planned["files_written"] == 0


def test_base_booted_lays_an_overlay_over_the_slot(card: Path, tmp_path: Path) -> None:
    overlay = cards.write_tree(tmp_path / "overlay", {"config.txt": b"kernel=kernel8.img\nkernel_watchdog_timeout=9\n"})

    said("--sim", card, "stage", "--base", "booted", "--overlay", overlay, "--set-cmdline", "root=LABEL=other")

    said("--sim", card, "trial")
    assert said("--sim", card, "verify", "b") | {"record_digest": ""} == {
        "schema": 1, "ok": True, "slot": "b", "record_digest": "", "missing": [], "changed": [], "extra": [],
    }  # fmt: skip
    assert b"kernel_watchdog_timeout=9" in card.read_bytes()
    assert b"root=LABEL=other rootwait" in card.read_bytes()


def test_verify_names_a_changed_file_and_exits_with_1(card: Path) -> None:
    image = card.read_bytes()
    last = image.rindex(cards.tree_files("v1")["overlays/README"])  # of slot b
    card.write_bytes(image[:last] + b"O" + image[last + 1 :])

    found = said("--disk", card, "verify", "b", code=1)

    assert (found["ok"], found["changed"]) == (False, ["overlays/README"])


def test_an_image_is_built_and_inspected(tmp_path: Path) -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    (tmp_path / "card.toml").write_text('[selector]\nsize = "17MiB"\n[slots]\nsize = "3MiB"\nprimary = "b"\n')

    built = said("image", "build", tmp_path / "card.toml", "--tree", cards.tree("v1"), "-o", tmp_path / "new.img")
    seen = said("image", "inspect", tmp_path / "new.img")

    assert [part["role"] for part in seen["partitions"]] == ["selector", "slot a", "slot b"]
    assert (seen["primary"], seen["slots"]["a"]["state"]) == ("b", "good")
    assert {key: built[key] for key in seen} == seen


def test_the_configuration_is_shown_and_can_be_read_back(tmp_path: Path) -> None:
    shown = said("config", "show", "--sysroot", tmp_path)
    (tmp_path / "abboot.toml").write_text(shown["config"])

    checked = said("config", "check", "--config", tmp_path / "abboot.toml")

    assert (checked["ok"], checked["errors"]) == (True, [])


# -- where the options stand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["--sim {0} --json status", "--sim {0} status --json", "status --json --sim {0}", "--json status --sim {0}"],
)
def test_global_options_stand_before_or_behind_the_verb(card: Path, line: str) -> None:
    ran = abboot(*line.format(card).split())

    assert json.loads(ran.out)["phase"] == "settled"


@pytest.mark.parametrize("line", ["--json image inspect {0}", "image --json inspect {0}", "image inspect {0} --json"])
def test_global_options_stand_anywhere_around_an_action(card: Path, line: str) -> None:
    assert json.loads(abboot(*line.format(card).split()).out)["primary"] == "a"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "frobnicate",
        "status --frobnicate",
        "status extra",
        "verify c",
        "stage",
        "image",
        "image build spec.toml",
        "simulate fly card.img",
        "--disk x --sim y status",
        "--disk x status --sim y",
        "status -q -v",
        "--dis x status",
        "stage tree --base booted --set-cmdline novalue",
    ],
)
def test_a_wrong_command_line_exits_with_2(line: str) -> None:
    ran = abboot(*line.split())

    assert (ran.code, ran.out) == (2, "")
    assert re.search(r"^abboot: .+\n  hint: ", ran.err, re.MULTILINE)
    assert refused(*line.split(), code=2)["type"] == "Usage"


@pytest.mark.parametrize("line", ["forklft status", "stats log", "-v --help status", "-q -h log"])
def test_a_mistake_and_a_help_list_every_verb_whatever_other_words_there_are(line: str) -> None:
    ran = abboot(*line.split())

    assert [verb for verb in SPECS if not re.search(rf"\b{verb}\b", ran.out + ran.err)] == []


@pytest.mark.parametrize("line", ["--help", "--version", *(f"{verb} --help" for verb in VERBS)])
def test_help_is_no_error(line: str) -> None:
    ran = abboot(*line.split())

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.strip()


def test_a_bug_says_that_it_is_one_and_exits_with_70(card: Path) -> None:
    # Not one of ours is replaced: the interpreter itself is made to fail.
    script = (
        "import hashlib, sys\nimport abboot.cli\n"
        "def broken(*_): raise ZeroDivisionError('out of numbers')\n"
        "hashlib.sha256 = broken\nsys.exit(abboot.cli.main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, "--json", "--disk", str(card), "verify"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )

    assert ran.returncode == 70
    assert json.loads(ran.stdout)["error"]["type"] == "Bug"
    assert "ZeroDivisionError" in ran.stderr


# -- a simulated Pi ----------------------------------------------------------------------------------------------------


def test_reading_verbs_write_nothing(card: Path, tmp_path: Path) -> None:
    before = everything_in(tmp_path)

    for line in ("status", "log", "verify", "verify b"):
        said("--sim", card, *line.split())
        said("--disk", card, *line.split())
    said("image", "inspect", card)
    said("simulate", "power-cut", card, "--dry-run", "--model", "pi5", "--tryboot")

    assert everything_in(tmp_path) == before


def test_the_state_of_the_simulated_pi_lies_beside_the_image(card: Path, tmp_path: Path) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial", "--no-reboot")

    assert [path for path in everything_in(tmp_path) if not path.startswith("card.img")] == []
    assert (tmp_path / "card.img.pi").is_dir()
    # Without the folder it is a Pi that was just switched on: the flag is gone.
    (tmp_path / "card.img.pi").rename(tmp_path / "elsewhere")
    assert said("--sim", card, "status")["tryboot_flag"] is False


def test_the_state_belongs_to_one_disk_id(card: Path) -> None:
    said("simulate", "boot", card, "--model", "pi5")
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial")
    assert said("--sim", card, "status")["phase"] == "trial"
    with card.open("r+b") as file:  # another card in the same place; the board stays
        file.seek(440)
        file.write(b"\x11\x22\x33\x44")

    found = said("--sim", card, "status")

    assert (found["phase"], found["booted"], found["model"]) == ("settled", "a", "Raspberry Pi 5 Model B")


def test_model_and_bootloader_stay_until_they_are_changed(card: Path) -> None:
    assert said("simulate", "boot", card, "--model", "pi5", "--bootloader", "2024-02-03")["model"] == "pi5"

    later = said("simulate", "reboot", card)

    assert (later["model"], later["bootloader"]) == ("pi5", "2024-02-03")
    assert said("simulate", "boot", card, "--model", "pi4")["bootloader"] == "2024-02-03"


def test_a_dry_run_changes_no_board(card: Path, tmp_path: Path) -> None:
    said("simulate", "boot", card)
    before = everything_in(tmp_path)

    told = said("simulate", "boot", card, "--model", "pi5", "--dry-run")

    assert told["model"] == "pi5"
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize(("action", "slot"), [("reboot", "b"), ("power-cut", "a"), ("boot", "a")])
def test_the_flag_outlives_a_reboot_and_no_power_cut(card: Path, action: str, slot: str) -> None:
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial", "--no-reboot")
    told = said("simulate", action, card, "--dry-run")

    happened = said("simulate", action, card)

    assert (happened["slot"], happened["tryboot"]) == (slot, slot == "b")
    assert (told["slot"], told["why"]) == (happened["slot"], happened["why"])


def test_a_trial_that_hangs_falls_back_at_the_next_power_cut(card: Path) -> None:
    said("--sim", card, "stage", cards.tree("hanging"))
    tried = said("--sim", card, "trial")
    if tried["boot"]["partition"] is None:  # the model says that nothing came up at all
        assert refused("--sim", card, "status")["type"] == "Refused"

    assert said("simulate", "power-cut", card)["slot"] == "a"
    noted = said("--sim", card, "confirm")

    assert noted["action"] == "noted"
    assert said("--sim", card, "status")["last_trial"]["outcome"] in ("not_reached", "fell_back", "unbootable")


# -- a sysroot ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sysroot(tmp_path: Path, card: Path) -> str:
    disk = cards.CardDisk(card)
    partitions = {
        number: FakePartition(start=disk.place(number)[0], size=disk.place(number)[1]) for number in (1, 2, 3)
    }
    return make_sysroot(tmp_path, disk=card, partitions=partitions)


def test_below_a_sysroot_the_booted_slot_is_seen(sysroot: str) -> None:
    found = said("--sysroot", sysroot, "status")

    assert (found["phase"], found["booted"], found["booted_partition"]) == ("settled", "a", 2)
    assert found["model"] == "Raspberry Pi 4 Model B Rev 1.4"


@pytest.mark.parametrize("mounted_at", ["/", "/boot/firmware"])
def test_a_disk_that_this_system_runs_from_is_not_staged_because_the_firmware_says_nothing(
    tmp_path: Path, card: Path, mounted_at: str
) -> None:
    """G4: without chosen/bootloader any slot may be the booted one."""
    start, size = cards.CardDisk(card).place(3)
    root = FakePartition(start=start + size, size=1 << 20, mounted_at=mounted_at)
    system = make_sysroot(tmp_path, disk=card, partitions={4: root})
    shutil.rmtree(Path(system, "proc/device-tree/chosen/bootloader"))
    before = card.read_bytes()

    for disk in ("/dev/mmcblk0", card):
        found = said("--sysroot", system, "--disk", disk, "status")
        assert (found["phase"], found["booted"]) == ("foreign", None)
        for line in (("stage", cards.tree("v2")), ("trial",), ("commit",), ("revert",), ("confirm",)):
            error = refused("--sysroot", system, "--disk", disk, *line)
            assert "nobody can tell which partition booted" in error["message"]
            assert "rpi-eeprom-update" in error["hint"]
    assert card.read_bytes() == before


def test_below_a_sysroot_a_reboot_is_recorded_and_not_done(sysroot: str) -> None:
    said("--sysroot", sysroot, "stage", cards.tree("v2"))

    tried = said("--sysroot", sysroot, "trial")

    assert [request["request"] for request in tried["requests"]] == ["mailbox", "reboot"]
    assert tried["requests"][-1]["argument"] == "0 tryboot"
    assert "boot" not in tried
    assert said("--sysroot", sysroot, "status")["phase"] == "armed"
    text = abboot("--sysroot", sysroot, "revert").out
    assert "recorded, not done (--sysroot): request mailbox" in text


def test_a_sysroot_is_looked_at_for_the_configuration(sysroot: str) -> None:
    (Path(sysroot) / "etc").mkdir()
    (Path(sysroot) / "etc/abboot.toml").write_text("[trial]\nattempts = 3\n")

    assert "attempts = 3\n" in said("--sysroot", sysroot, "config", "show")["config"]


def test_this_kernel_is_never_asked_about_an_image(card: Path, sysroot: str) -> None:
    found = said("--sysroot", sysroot, "--disk", new_card(card.parent, "other.img"), "status")

    assert (found["phase"], found["booted"], found["model"]) == ("offline", None, None)


# -- streams -----------------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_but_errors(card: Path) -> None:
    assert abboot("-q", "--sim", card, "status") == abboot("status", "-q", "--sim", card)
    assert abboot("-q", "--sim", card, "status").out == ""
    assert abboot("-q", "--sim", card, "revert", "--no-reboot").code == 0
    ran = abboot("-q", "--sim", card, "stage", "/nonexistent")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("abboot: cannot read the tree /nonexistent: ")


def test_verbose_tells_events_as_json_lines_in_a_pipe(card: Path) -> None:
    ran = process("-v", "--json", "--sim", card, "stage", cards.tree("v2"))

    events = [json.loads(line) for line in ran.err.splitlines()]
    assert [event["event"] for event in events] == ["journal.appended", "slot.written", "journal.appended"]
    assert json.loads(ran.out)["changed"] is True


def test_a_reader_that_goes_away_is_no_error(card: Path) -> None:
    for words_ in (("status",), ("status", "--json"), ("--help",), ("frobnicate", "--json")):
        child = subprocess.Popen(
            command("--sim", card, *words_), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        with child, child.stderr as stderr:
            err = stderr.read()

        assert (child.returncode, err) == (2 if "frobnicate" in words_ else 0, b"")


def test_an_answer_that_cannot_be_written_is_an_error(card: Path) -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            command("--sim", card, "status"), stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env=environment(),
        )  # fmt: skip

    assert ran.returncode == 1
    assert ran.stderr.startswith("abboot: cannot write the answer: no space left on device\n")


def test_without_stdout_and_stderr_nothing_is_written_into_the_card(card: Path, tmp_path: Path) -> None:
    before = everything_in(tmp_path)
    script = f"{' '.join(command('--disk', card, 'status'))} <&- >&- 2>&-"

    ran = subprocess.run(["sh", "-c", script], check=False, env=environment())

    assert ran.returncode == 0
    assert everything_in(tmp_path) == before


def test_a_file_name_that_is_no_text_can_be_printed(tmp_path: Path) -> None:
    image = tmp_path / "caf\udce9\033[2J\n.img"
    image.write_bytes(new_card(tmp_path).read_bytes())

    ran = process("--disk", image, "status")

    assert (ran.code, ran.err) == (0, "")
    assert "caf\\udce9\\x1b[2J" in ran.out
    assert json.loads(process("--disk", image, "--json", "status").out)["disk"] == str(image)
