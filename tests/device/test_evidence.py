"""What is kept of a trial that failed: enough to find out why, bounded, and never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs

from abboot.config import Config, EvidenceConfig
from abboot.core.health import CheckResult
from abboot.core.words import Outcome, Phase
from abboot.evidence import FILE_BYTES, PSTORE_FILES
from tests.cards import CONFIG, tree
from tests.cli.command import ROOT, abboot, said
from tests.device.board import FakeBoard
from tests.device.test_trials import Told

FOLDER = "var/lib/abboot/evidence"


def on_trial(folder: Path, config: Config = CONFIG) -> FakeBoard:
    board = FakeBoard(folder, config)
    try_again(board, "v2")
    return board


def try_again(board: FakeBoard, version: str) -> None:
    board.manager().stage(tree(version))
    board.manager().trial()
    board.boots(3, tryboot=True)


def kept(board: FakeBoard) -> list[Path]:
    folder = board.root / FOLDER
    return sorted(folder.iterdir()) if folder.exists() else []


def files(board: FakeBoard) -> dict[str, bytes]:
    (folder,) = kept(board)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


LOUD = CheckResult(name="fan", ok=False, required=True, detail="it is loud\nvery", duration_s=0.5)


def unhealthy(board: FakeBoard) -> None:
    board.manager().end_trial(healthy=False, reason="the fan is loud", checks=[LOUD])


def test_failed_checks_are_kept_before_the_reboot(tmp_path: Path) -> None:
    board = on_trial(tmp_path)

    unhealthy(board)

    assert json.loads(files(board)["checks.json"]) == {
        "reason": "the fan is loud",
        "checks": [{"name": "fan", "ok": False, "required": True, "detail": "it is loud\nvery", "duration_s": 0.5}],
    }
    assert board.requests[-1] == "reboot"


def test_the_deadline_of_a_trial_that_is_left_already_changes_nothing_of_it(tmp_path: Path) -> None:
    """systemd starts it when `confirm` ends with 1, while the reboot is on its way."""
    board = on_trial(tmp_path)
    unhealthy(board)
    before = files(board)

    ended = said("--sysroot", board.root, "deadline")

    assert ended["rebooting"] is True
    assert files(board) == before
    board.boots(2)
    board.manager().confirm()
    trial = board.manager().status().last_trial
    assert trial is not None
    assert trial.reason == "the fan is loud"


def test_confirm_keeps_what_its_checks_said(tmp_path: Path) -> None:
    board = on_trial(tmp_path, attrs.evolve(CONFIG, health=attrs.evolve(CONFIG.health, deadline_s=1.0)))

    board.manager().confirm([Told(ok=False)])

    told = json.loads(files(board)["checks.json"])
    assert [(check["name"], check["ok"], check["detail"]) for check in told["checks"]] == [("told", False, "as told")]
    assert told["reason"].startswith("failing after")


def test_back_on_the_primary_the_outcome_is_added(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    unhealthy(board)
    board.boots(2)

    noted = board.manager().confirm()

    assert noted.outcome is Outcome.REVERTED
    assert sorted(files(board)) == ["checks.json", "outcome.json"]
    told = json.loads(files(board)["outcome.json"])
    assert (told["outcome"], told["slot"], told["attempt"], told["reset_status"]) == ("reverted", "b", 1, "0x20")
    assert told["reason"] == "the fan is loud"


def test_a_trial_that_nobody_saw_end_leaves_an_outcome(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    board.manager().note_boot()
    board.boots(2)

    assert board.manager().note_boot()[1] is Outcome.FELL_BACK
    assert kept(board) == [], "the early unit runs before /var is there"
    board.manager().confirm()

    assert json.loads(files(board)["outcome.json"])["outcome"] == "fell_back"


def test_a_panic_that_the_kernel_kept_is_kept(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    board.manager().note_boot()
    board.boots(2)
    board.write("sys/fs/pstore/dmesg-ramoops-0", "Kernel panic - not syncing: VFS: Unable to mount root fs")
    board.write("var/lib/systemd/pstore/1700000000/dmesg.txt", "an older one")
    board.write("sys/fs/pstore/..hidden", "no")

    board.manager().confirm()

    found = files(board)
    assert b"Unable to mount root fs" in found["pstore-dmesg-ramoops-0"]
    assert found["pstore-dmesg.txt"] == b"an older one"
    assert sorted(found) == ["outcome.json", "pstore-dmesg-ramoops-0", "pstore-dmesg.txt"]


def test_status_says_where(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    assert said("--sysroot", board.root, "status")["evidence"] is None
    unhealthy(board)
    board.boots(2)
    board.manager().confirm()
    (folder,) = kept(board)

    assert said("--sysroot", board.root, "status")["evidence"] == str(folder)
    assert str(folder) in abboot("--sysroot", board.root, "status").out


def test_a_committed_trial_leaves_nothing(tmp_path: Path) -> None:
    board = on_trial(tmp_path)

    assert board.manager().confirm([Told(ok=True)]).action == "committed"

    assert kept(board) == []
    assert board.manager().status().evidence is None


def test_only_the_newest_trials_are_kept_and_nothing_of_others_is_removed(tmp_path: Path) -> None:
    board = on_trial(tmp_path, attrs.evolve(CONFIG, evidence=EvidenceConfig(keep=2)))
    board.write(f"{FOLDER}/notes/mine.txt", "mine")
    for number, version in enumerate(("v3", "v2", "v3"), start=1):
        board.manager().note_boot()
        board.boots(2)
        board.manager().confirm()
        for path in kept(board):
            os.utime(path, (number, number))
        try_again(board, version)

    folders = kept(board)

    assert len(folders) == 3
    assert folders[-1].name == "notes"
    assert (folders[-1] / "mine.txt").read_text() == "mine"


def test_the_evidence_of_one_trial_is_gathered_once(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    board.manager().note_boot()
    board.boots(2)
    board.manager().confirm()
    before = files(board)
    board.write("sys/fs/pstore/dmesg-ramoops-0", "of a later boot")
    board.boots(2)

    board.manager().confirm()

    assert files(board) == before


def test_every_file_and_their_number_are_bounded(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    board.manager().note_boot()
    board.boots(2)
    for number in range(PSTORE_FILES + 5):
        board.write(f"sys/fs/pstore/dmesg-{number:02}", b"x" * (FILE_BYTES + 10))
    os.mkfifo(board.root / "sys/fs/pstore/dmesg-fifo")

    board.manager().confirm()

    sizes = [len(data) for name, data in files(board).items() if name.startswith("pstore-")]
    assert len(sizes) == PSTORE_FILES
    assert max(sizes) == FILE_BYTES


def test_keeping_none_keeps_none(tmp_path: Path) -> None:
    board = on_trial(tmp_path, attrs.evolve(CONFIG, evidence=EvidenceConfig(keep=0)))

    unhealthy(board)

    assert not (board.root / FOLDER).exists()


def test_a_folder_that_leads_out_of_the_system_is_not_written(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    (tmp_path / "outside").mkdir()
    (board.root / "var").symlink_to(tmp_path / "outside")

    unhealthy(board)

    assert list((tmp_path / "outside").rglob("*")) == []
    assert board.requests[-1] == "reboot"


def test_where_nothing_can_be_kept_the_trial_is_left_all_the_same(tmp_path: Path) -> None:
    board = on_trial(tmp_path)
    board.write(FOLDER, "not a folder")

    unhealthy(board)
    assert board.requests[-1] == "reboot"
    board.boots(2)

    assert board.manager().confirm().outcome is Outcome.REVERTED
    assert board.manager().status().phase is Phase.SETTLED


def test_a_disk_that_takes_no_more_costs_evidence_and_nothing_else(tmp_path: Path) -> None:
    """No file may grow beyond 100 bytes in there: the kernel refuses the write, as on a full disk."""
    code = f"""
import resource
from abboot.core.journal import Trial
from abboot.core.words import Slot
from abboot.evidence import Evidence
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
trial = Trial(slot=Slot.B, record_digest="ab" * 32)
Evidence(folder={str(tmp_path)!r}, keep=3).keep_checks(trial, reason="x" * 200, checks=())
print("went on")
"""

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)

    assert (ran.stdout, ran.returncode) == ("went on\n", 0), ran.stderr
    assert not list(tmp_path.rglob("checks.json"))


def test_the_journal_of_this_boot_is_kept_where_there_is_one(tmp_path: Path) -> None:
    """On this very system: whether or not it has a journal, nothing but a bounded file comes of it."""
    from abboot.core.journal import Trial
    from abboot.core.words import Slot
    from abboot.evidence import Evidence

    trial = Trial(slot=Slot.B, record_digest="ab" * 32, armed_boot_id="6a1f5a3e-93d5-4b0e-8f0c-3f6a7b2c1d00")
    evidence = Evidence(folder=str(tmp_path / "evidence"), keep=3)

    evidence.keep_checks(trial, reason="the fan is loud", checks=())

    place = evidence.find(trial)
    assert place is not None
    assert Path(place).name == "b-abababababab-1-6a1f5a3e"
    assert json.loads(Path(place, "checks.json").read_text()) == {"reason": "the fan is loud", "checks": []}
    journal = Path(place, "journal.txt")
    assert not journal.exists() or 0 < journal.stat().st_size <= 2 * FILE_BYTES
