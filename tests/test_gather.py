"""What a stage is made of: the booted slot as it is now, folders over it, changed texts; and what the record says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import pytest

from abboot.cli import main
from abboot.core.record import RECORD_MAX_SIZE
from abboot.core.snippets import BEGIN, END
from abboot.errors import AbbootError, InvalidTree
from abboot.gather import TEXT_LIMIT, with_snippets
from abboot.manager import BootManager
from abboot.results import Staged
from abboot.simulator import SimulatedPi
from abboot.sources import FolderSource, MemoryFile
from tests.cards import CONFIG, NUMBERS, CardDisk, make_card, tree_files, write_tree
from tests.cards import card as pristine_card
from tests.strategies_fat import run, tree_by_mcopy

pytestmark = pytest.mark.needs("mcopy", "minfo")

REGDOM = "console=tty1 root=PARTUUID=ab007e57-05 rootwait panic=10 cfg80211.ieee80211_regdom=FR\n"


class Card:
    """A card in a file, in a Pi that runs slot a; changed and read by mtools, as the running system and a person do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = Path(shutil.copyfile(pristine_card(), folder / "card.img"))

    def stage(self, tree: Path | None = None, **options: object) -> Staged:
        with SimulatedPi.load(self.path, config=CONFIG) as pi:
            return pi.manager().stage(tree, **options)  # type: ignore[arg-type]

    def drive(self, slot: str) -> str:
        start, _ = CardDisk(self.path).place({str(s): n for s, n in NUMBERS.items()}[slot])
        return f"{self.path}@@{start}"

    def edit(self, files: Mapping[str, bytes]) -> None:
        """What the system that runs from slot a does to it."""
        for name, data in files.items():
            local = write_tree(self._folder / "edits", {name: data}) / name
            for parent in reversed(PurePosixPath(name).parents[:-1]):
                subprocess.run(
                    ["mmd", "-D", "s", "-i", self.drive("a"), f"::{parent}"], capture_output=True, check=False
                )
            run("mcopy", "-o", "-i", self.drive("a"), local, f"::{name}")

    def slot(self, name: str) -> dict[str, bytes]:
        target = self._folder / f"read-{len(list(self._folder.iterdir()))}"
        found = tree_by_mcopy(self.drive(name), target)  # type: ignore[arg-type]
        return {path: data for path, data in found.items() if not path.startswith("abboot/")}

    @property
    def sources(self) -> list[str]:
        with BootManager.open(self.path) as manager:
            record = next(info.record for slot, info in manager.status().slots.items() if slot == "b")
            assert record is not None
            return list(record.sources)


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "overlay", {"kernel8.img": b"new kernel", "OVERLAYS/new.dtbo": b"new overlay"})


# -- from the booted slot -----------------------------------------------------------------------------------------


def test_everything_that_the_running_system_and_its_user_left_comes_along(card: Card) -> None:
    edits = {
        "user-data": b"#cloud-config\n",
        "network-config": b"version: 2\n",
        "init-root/etc/motd": b"hello\n",
        "sysroot-mounts/etc-rw": b"",
        "cmdline.txt": REGDOM.encode(),
        "config.txt": b"arm_64bit=1\ndtparam=i2c_arm=on\n",
    }
    card.edit(edits)

    card.stage(base="booted")

    assert card.slot("b") == tree_files("v1") | edits


def test_folders_are_laid_over_the_booted_slot_in_order(card: Card, overlay: Path, tmp_path: Path) -> None:
    last = write_tree(tmp_path / "last", {"KERNEL8.IMG": b"newest kernel"})

    card.stage(base="booted", overlays=[overlay, last])

    files = tree_files("v1") | {"overlays/new.dtbo": b"new overlay"}
    del files["kernel8.img"]
    assert card.slot("b") == files | {"KERNEL8.IMG": b"newest kernel"}


def test_root_is_set_and_the_regulatory_domain_survives(card: Card, overlay: Path) -> None:
    card.edit({"cmdline.txt": REGDOM.encode()})

    card.stage(base="booted", overlays=[overlay], cmdline={"root": "PARTLABEL=root_b"})

    wanted = REGDOM.replace("PARTUUID=ab007e57-05", "PARTLABEL=root_b").encode()
    assert card.slot("b")["cmdline.txt"] == wanted
    assert card.slot("a")["cmdline.txt"] == REGDOM.encode()


def test_staging_the_same_again_writes_nothing(card: Card, overlay: Path) -> None:
    card.edit({"user-data": b"#cloud-config\n"})
    options = {"base": "booted", "overlays": [overlay], "cmdline": {"panic": "20"}}
    first = card.stage(**options)

    again = card.stage(**options)

    assert (again.changed, again.bytes_written) == (False, 0)
    assert again.record_digest == first.record_digest


def test_offline_the_primary_stands_for_the_booted_slot(card: Card, overlay: Path) -> None:
    with BootManager.open(card.path) as manager:
        manager.stage(None, base="booted", overlays=[overlay])

    assert card.slot("b")["start4.elf"] == tree_files("v1")["start4.elf"]
    assert card.slot("b")["kernel8.img"] == b"new kernel"


def test_what_is_dropped_is_left_out_and_may_be_missing(card: Card, tmp_path: Path) -> None:
    card.edit({"config.d/10-old.txt": b"old=1\n", "config.d/20-old.txt": b"old=2\n"})
    new = write_tree(tmp_path / "new", {"config.d/30-new.txt": b"new=1\n"})

    card.stage(base="booted", overlays=[new], drop=["Config.d/", "initramfs-v1", "was-never-there"])

    files = card.slot("b")
    assert sorted(set(tree_files("v1")) - set(files)) == ["initramfs-v1"]
    assert [path for path in files if path.startswith("config.d/")] == ["config.d/30-new.txt"]


# -- a whole tree, and what is carried ----------------------------------------------------------------------------


def test_a_tree_is_taken_as_it_is_unless_somebody_asks_for_more(card: Card, tmp_path: Path) -> None:
    card.edit({"user-data": b"#cloud-config\n"})

    card.stage(write_tree(tmp_path / "v2", tree_files("v2")))

    assert card.slot("b") == tree_files("v2")


def test_what_is_carried_wins_over_the_tree(card: Card, tmp_path: Path) -> None:
    mine = {"user-data": b"#cloud-config\nmine: yes\n", "init-root/etc/motd": b"hello\n"}
    card.edit(mine)
    tree = tree_files("v2") | {"user-data": b"#cloud-config\n", "init-root/other": b"from the tree"}

    card.stage(write_tree(tmp_path / "v2", tree), carry=["USER-DATA", "init-root", "meta-data"])

    assert card.slot("b") == tree | mine


@pytest.mark.parametrize("option", ["drop", "carry"])
def test_a_path_that_cannot_be_on_a_slot_is_refused(card: Card, option: str) -> None:
    before = card.path.read_bytes()

    for path in ("../etc/passwd", "/user-data", "", "a//b", "x\x00"):
        with pytest.raises(AbbootError, match=r"^cannot take '.*' from the booted slot: "):
            card.stage(base="booted", **{option: [path]})
    assert card.path.read_bytes() == before


def test_nothing_to_stage_is_said(card: Card) -> None:
    with pytest.raises(AbbootError, match=r"^cannot stage: no tree was given$"):
        card.stage(None, carry=["user-data"])
    with pytest.raises(AbbootError, match=r"^cannot stage: base is 'other'$"):
        card.stage(None, base="other")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"start4.elf": b"x"}, "^cannot set root in cmdline.txt: the tree has no cmdline.txt$"),
        ({"CMDLINE.TXT": bytes(TEXT_LIMIT + 1)}, f"^cannot set root in cmdline.txt: it has {TEXT_LIMIT + 1} bytes$"),
        ({"cmdline.txt": b'a="'}, "^cannot set root in cmdline.txt: it has a double quote that is not closed$"),
    ],
)
def test_a_command_line_that_cannot_be_changed_is_refused(
    card: Card, tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    with pytest.raises(AbbootError, match=words):
        card.stage(write_tree(tmp_path / "new", files), cmdline={"root": "x"})


# -- config.d -----------------------------------------------------------------------------------------------------


def test_snippets_of_several_packages_are_merged_and_come_along_the_next_time(card: Card, tmp_path: Path) -> None:
    can = write_tree(tmp_path / "can", {"config.d/10-can.txt": b"dtparam=spi=on\n"})
    usb = write_tree(tmp_path / "usb", {"CONFIG.D/20-usb.txt": b"[cm4]\ndtoverlay=dwc2\n"})
    original = tree_files("v1")["config.txt"]

    card.stage(base="booted", overlays=[can, usb])

    files = card.slot("b")
    assert files["config.txt"].startswith(original + b"\n" + BEGIN)
    assert files["config.txt"].endswith(
        b"# config.d/10-can.txt\ndtparam=spi=on\n[all]\n# config.d/20-usb.txt\n[cm4]\ndtoverlay=dwc2\n[all]\n"
        + END
        + b"\n"
    )
    assert {path for path in files if path.startswith("config.d/")} == {"config.d/10-can.txt", "config.d/20-usb.txt"}

    with SimulatedPi.load(card.path, config=CONFIG) as pi:
        pi.manager().trial()
        pi.manager().commit()
        pi.save(card.path)
    silenced = write_tree(tmp_path / "silenced", {"config.d/10-can.txt": b""})
    card.stage(base="booted", overlays=[silenced])

    config = card.slot("a")["config.txt"]  # b runs now, so a was staged
    assert config.startswith(original + b"\n" + BEGIN)
    assert config.count(BEGIN) == 1
    assert b"spi" not in config
    assert b"dtoverlay=dwc2" in config


def test_snippets_without_a_config_txt_make_one(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "tree", {"config.d/a.txt": b"a=1\n"})

    files, warnings = with_snippets(FolderSource(folder).scan())

    assert [file.path for file in files] == ["config.d/a.txt", "config.txt"]
    assert b"a=1\n" in b"".join(files[1].chunks())
    assert warnings == ()


def test_a_tree_without_snippets_is_not_touched() -> None:
    files = (MemoryFile("config.txt", bytes(2 * TEXT_LIMIT), "x"), MemoryFile("a", b"", "x"))

    assert with_snippets(files) == (files, ())
    assert with_snippets(files)[0] is files


def test_the_name_of_config_txt_keeps_its_spelling() -> None:
    files = (MemoryFile("CONFIG.TXT", b"a=1\n", "x"), MemoryFile("config.d/b.txt", b"b=1\n", "x"))

    assert [file.path for file in with_snippets(files)[0]] == ["CONFIG.TXT", "config.d/b.txt"]


def test_snippets_that_are_no_configuration_are_refused() -> None:
    files = (MemoryFile("config.txt", b"", "x"), MemoryFile("config.d/b.txt", bytes(TEXT_LIMIT + 1), "x"))

    with pytest.raises(
        InvalidTree, match=r"^cannot merge config.d into config.txt: 262145 bytes found, 262144 are handled$"
    ):
        with_snippets(files)


def test_a_line_that_the_firmware_would_cut_is_a_warning_that_names_the_snippet(card: Card, tmp_path: Path) -> None:
    long = write_tree(tmp_path / "long", {"config.d/10-long.txt": b"x" * 99})

    staged = card.stage(base="booted", overlays=[long])

    assert "config.d/10-long.txt line 1 has 99 characters: the firmware reads 98 of a line" in staged.warnings


def test_an_image_is_built_from_the_same_tree_that_is_staged(card: Card, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "v2", tree_files("v2") | {"config.d/10.txt": b"dtparam=spi=on\n"})
    staged = card.stage(tree)

    made = make_card(tmp_path / "new.img", tree)

    with BootManager.open(made) as manager:
        assert {info.record.tree_digest for info in manager.status().slots.values() if info.record} == {
            staged.tree_digest
        }


# -- the command line ---------------------------------------------------------------------------------------------


def test_the_command_line_hands_everything_on(card: Card, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card.edit({"user-data": b"mine\n", "config.d/10-old.txt": b"old=1\n"})
    new = write_tree(tmp_path / "new", {"user-data": b"theirs\n", "config.d/20-new.txt": b"new=1\n"})
    options = ["--base", "booted", "--overlay", str(new), "--drop", "config.d", "--carry", "user-data"]

    code = main(["--sim", str(card.path), "--json", "stage", *options, "--set-cmdline", "root=x", "--format", "fat12"])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    files = card.slot("b")
    assert files["user-data"] == b"mine\n"
    assert (b"new=1" in files["config.txt"], b"old=1" in files["config.txt"]) == (True, False)
    assert b" root=x " in files["cmdline.txt"]
    assert "FAT12" in run("minfo", "-i", card.drive("b"), "::")


# -- the record ---------------------------------------------------------------------------------------------------


def test_the_record_says_what_was_taken_from_where(card: Card, overlay: Path, tmp_path: Path) -> None:
    with BootManager.open(card.path) as manager:
        digest = manager.status().slots[next(iter(NUMBERS))].record_digest
    snippets = write_tree(tmp_path / "snippets", {"config.d/a.txt": b"a=1\n"})

    card.stage(base="booted", overlays=[overlay, snippets], cmdline={"root": "PARTLABEL=root_b"}, carry=["cmdline.txt"])

    assert digest is not None
    assert card.sources == [
        f"slot a (record {digest[:12]}): 9 files",
        "folder overlay: 2 files",
        "folder snippets: 1 file",
        "cmdline: root=PARTLABEL=root_b",
        "config.d: 1 file merged into config.txt",
    ]


def test_the_record_does_not_depend_on_where_the_tree_lay(card: Card, tmp_path: Path) -> None:
    one = write_tree(tmp_path / "one" / "tree", tree_files("v2"))
    two = write_tree(tmp_path / "two" / "tree", tree_files("v2"))
    digests = []
    for tree in (one, two):
        copy = tmp_path / f"{tree.parent.name}.img"
        copy.write_bytes(card.path.read_bytes())
        with BootManager.open(copy) as manager:
            digests.append(manager.stage(tree).record_digest)

    assert digests[0] == digests[1]


def test_sources_never_make_a_stage_fail(card: Card, tmp_path: Path) -> None:
    overlays = [write_tree(tmp_path / f"{n:02}-{'long name ' * 15}", {f"f{n}": b"x"}) for n in range(40)]
    annotations = {"note": "x" * 1200}

    staged = card.stage(
        base="booted", overlays=overlays, annotations=annotations, cmdline={"x": "\N{SNOWMAN}" * 1000}, label="l" * 100
    )

    assert staged.changed
    raw = tree_by_mcopy(card.drive("b"), tmp_path / "raw")["abboot/record.json"]  # type: ignore[arg-type]
    assert len(raw) <= RECORD_MAX_SIZE
    found = json.loads(raw)
    assert found["annotations"] == annotations
    assert found["sources"][0].startswith("slot a (record ")
    assert found["sources"][-1].startswith("and ")
    assert all(len(line) <= 100 for line in found["sources"])


def test_annotations_that_do_not_fit_are_still_refused(card: Card) -> None:
    before = card.path.read_bytes()

    with pytest.raises(AbbootError, match=r"cannot record the stage: .* at most 2048 fit .annotations takes"):
        card.stage(base="booted", annotations={"note": "x" * 2100})
    assert card.path.read_bytes() == before
