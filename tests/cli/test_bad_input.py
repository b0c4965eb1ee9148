"""Bad input: one line that says what, where and what to do; exit 1, or 75; and not one byte changed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abboot.cli.render import printable
from tests import cards
from tests.cli.command import ROOT, abboot, command, environment, everything_in, new_card, refused, said
from tests.cli.test_contract import sysroot  # noqa: F401 - a fixture

MIB = cards.MIB
SELECTOR_AT, _ = cards.CardDisk(cards.card()).place(1)
READING = ("status", "log", "verify")
CHANGING = ("stage", "trial", "commit", "revert", "repair", "confirm")


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return new_card(tmp_path)


def refuses(*words: object, says: str, hint: str) -> None:
    """The command line fails with one line, and one for the hint, for people and for programs.

    ``hint`` is empty where the line itself says what to write.
    """
    error = refused(*words)
    ran = abboot(*words)

    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(r"abboot: [^\n]+\n(  hint: [^\n]+\n)?", ran.err), ran.err
    if ".part" not in error["message"]:  # the name of an unfinished image is drawn at random
        assert ran.err == as_text(error)
    assert re.search(says, error["message"]), error["message"]
    assert re.match(r"cannot \w", error["message"]), error["message"]
    assert not error["message"].endswith(".")
    assert re.search(hint, error["hint"]), error
    assert bool(hint) is bool(error["hint"]), error


def as_text(error: dict[str, str]) -> str:
    hint = f"  hint: {error['hint']}\n" if error["hint"] else ""
    return printable(f"abboot: {error['message']}\n{hint}")


@contextlib.contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = everything_in(folder)
    yield
    assert everything_in(folder) == before


# -- images ------------------------------------------------------------------------------------------------------------


def _without_table(card: Path) -> None:
    with card.open("r+b") as file:
        file.write(bytes(512))


def _truncated(card: Path) -> None:
    os.truncate(card, 20_000_000)


def _two_blocks(card: Path) -> None:
    os.truncate(card, 700)


def _empty(card: Path) -> None:
    os.truncate(card, 0)


def _one_fat_partition(card: Path) -> None:
    with card.open("r+b") as file:
        file.seek(446 + 16)
        file.write(bytes(32))


def _a_volume(card: Path) -> None:
    disk = cards.CardDisk(card)
    card.write_bytes(disk.bytes_of(2))


def _overlapping(card: Path) -> None:
    with card.open("r+b") as file:
        file.seek(446 + 16 + 8)
        file.write((SELECTOR_AT // 512).to_bytes(4, "little"))


def _noise(card: Path) -> None:
    card.write_bytes(hashlib.sha256(b"noise").digest() * 4096)


@pytest.mark.parametrize(
    ("spoil", "says", "hint"),
    [
        (_without_table, "no partition table found", "whole disk"),
        (_truncated, r"partition 1 ends at byte \d+, but there are only 20000000 bytes", "copy or build it again"),
        (_two_blocks, "it has only 700 bytes", "whole disk"),
        (_empty, "it has only 0 bytes", "whole disk"),
        (_one_fat_partition, r"1 FAT partition found \(number 1\)", "abboot image build"),
        (_a_volume, "a FAT boot sector is where the partition table should be", "whole disk"),
        (_overlapping, "partitions 1 and 2 overlap", "copy or build the image again"),
        (_noise, "no partition table found", "whole disk"),
    ],
)
def test_a_disk_that_is_none_of_ours(
    card: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str, hint: str
) -> None:
    spoil(card)

    with unchanged(tmp_path):
        for verb in READING + CHANGING:
            words = (verb, cards.tree("v2")) if verb == "stage" else (verb,)
            refuses("--disk", card, *words, says=says, hint=hint)
            error = refused("--sim", card, *words)
            assert str(card) in error["message"] or spoil is _one_fat_partition
        if spoil is not _one_fat_partition:  # that one can be looked at
            refuses("image", "inspect", card, says=says, hint=hint)
            refuses("simulate", "boot", card, says=says, hint=hint)


@pytest.mark.parametrize("what", ["/nonexistent/card.img", "/dev/null", "/", "a\0b"])
def test_something_that_is_no_disk(what: str) -> None:
    for words in (("--disk", what, "status"), ("--sim", what, "trial"), ("image", "inspect", what)):
        refuses(*words, says="cannot open ", hint="name a disk such as /dev/mmcblk0, or an image file")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    refuses("--disk", tmp_path / "pipe", "status", says="neither a block device nor a file", hint="name a disk")
    refuses("--config", tmp_path / "pipe", "status", says="not a regular file", hint="")
    refuses("image", "build", tmp_path / "pipe", "-o", tmp_path / "new.img", says="not a regular file", hint="")


# -- autoboot.txt ------------------------------------------------------------------------------------------------------


AUTOBOOTS = {
    "too long": (b"# padding\n" * 70, "700 bytes found, the firmware reads 512"),
    "CR LF": (b"[all]\r\ntryboot_a_b=1\r\nboot_partition=2\r\n[tryboot]\r\nboot_partition=2\r\n", "CR LF"),
    "garbage": (bytes(range(128, 192)), "is not printable ASCII"),
    "no such partition": (
        b"[all]\ntryboot_a_b=1\nboot_partition=9\n[tryboot]\nboot_partition=9\n",
        "names partition 9, which does not exist",
    ),
    "no slot": (
        b"[all]\ntryboot_a_b=1\nboot_partition=1\n[tryboot]\nboot_partition=1\n",
        "names partition 1, which is no slot",
    ),
    "nothing": (b"", "."),
    "no number": (b"[all]\ntryboot_a_b=1\nboot_partition=two\n", "boot_partition"),
}


def write_autoboot(card: Path, data: bytes) -> None:
    """As a person would with a card reader, through mtools."""
    subprocess.run(
        ["mcopy", "-D", "o", "-i", f"{card}@@{SELECTOR_AT}", "-", "::autoboot.txt"], input=data, check=True,
        env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
    )  # fmt: skip


@pytest.mark.needs("mcopy")
@pytest.mark.parametrize("name", AUTOBOOTS)
def test_a_damaged_autoboot_txt_stops_every_change_until_it_is_repaired(card: Path, tmp_path: Path, name: str) -> None:
    data, says = AUTOBOOTS[name]
    write_autoboot(card, data)

    with unchanged(tmp_path):
        for words in (("stage", cards.tree("v2")), ("trial",), ("commit",)):
            refuses("--sim", card, *words, says=says, hint="abboot repair")
            refuses("--disk", card, *words, says=says, hint="abboot repair")
        shown = said("--sim", card, "status")
        assert re.search(says, " ".join(shown["notes"]))
        assert "abboot repair" in shown["next"]
        assert re.search(says, said("image", "inspect", card)["autoboot_problem"])
        assert re.search(says, abboot("image", "inspect", card).out)
    assert said("--sim", card, "repair")["changed"] is True
    assert said("--sim", card, "stage", cards.tree("v2"))["changed"] is True


@pytest.mark.needs("mdel")
def test_a_selector_that_lost_both_files_is_repaired_from_the_entries_on_the_medium(card: Path) -> None:
    for name in ("autoboot.txt", "ABBOOT.JNL"):
        subprocess.run(["mdel", "-i", f"{card}@@{SELECTOR_AT}", f"::{name}"], check=True)

    assert said("--sim", card, "repair")["changed"] is True

    shown = said("--sim", card, "status")
    assert (shown["phase"], shown["primary"], shown["notes"]) == ("settled", "a", [])


@pytest.mark.needs("mdel")
def test_a_selector_that_lost_everything_is_not_guessed(card: Path, tmp_path: Path) -> None:
    for name in ("autoboot.txt", "ABBOOT.JNL"):
        subprocess.run(["mdel", "-i", f"{card}@@{SELECTOR_AT}", f"::{name}"], check=True)
    journal = card.read_bytes().index(b"ABBOOT-JOURNAL ", SELECTOR_AT)
    with card.open("r+b") as file:  # a new card has one entry
        file.seek(journal)
        file.write(bytes(4096))

    with unchanged(tmp_path):
        refuses(
            "--sim", card, "repair", says="nothing says which slot is the primary", hint="write autoboot.txt by hand"
        )
        refuses("--disk", card, "stage", cards.tree("v2"), says="there is no autoboot.txt", hint="abboot repair")
        assert said("--disk", card, "status")["primary"] is None


@pytest.mark.parametrize("number", [1, 2])
def test_a_volume_that_lost_its_second_fat(card: Path, tmp_path: Path, number: int) -> None:
    """The count of FATs in the boot sector says 1, so everything behind them is looked for in the wrong place."""
    with card.open("r+b") as file:
        file.seek(cards.CardDisk(card).place(number)[0] + 16)
        file.write(b"\1")

    with unchanged(tmp_path):
        refuses("--disk", card, "stage", cards.tree("v2"), says=f"partition {number}|slot a", hint=".")


@pytest.mark.needs("mkfs.vfat")
def test_a_slot_that_was_formatted_with_one_fat_is_legal(card: Path, tmp_path: Path) -> None:
    at, size = cards.CardDisk(card).place(3)
    volume = tmp_path / "slot"
    volume.write_bytes(bytes(size))
    subprocess.run(["mkfs.vfat", "-f", "1", "-F", "16", "-s", "1", volume], check=True, capture_output=True)
    with card.open("r+b") as file:
        file.seek(at)
        file.write(volume.read_bytes())

    said("--disk", card, "stage", cards.tree("v2"))

    assert said("--disk", card, "verify", "b")["ok"] is True
    volume.write_bytes(cards.CardDisk(card).bytes_of(3))
    judged = subprocess.run(["fsck.vfat", "-n", volume], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout


# -- trees -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return cards.write_tree(tmp_path / "tree", cards.tree_files("v2"))


def _collision(tree: Path) -> None:
    (tree / "CON.TXT").write_text("one")
    (tree / "con.txt").write_text("other")


def _link_out(tree: Path) -> None:
    (tree / "passwd").symlink_to("/etc/passwd")


def _link_inside(tree: Path) -> None:
    (tree / "usercfg.txt").symlink_to("config.txt")


def _fifo(tree: Path) -> None:
    os.mkfifo(tree / "pipe")


def _five_gib(tree: Path) -> None:
    with (tree / "rootfs.img").open("wb") as file:
        file.truncate(5 << 30)


def _too_much(tree: Path) -> None:
    (tree / "more.bin").write_bytes(bytes(4 * MIB))


def _line_end(tree: Path) -> None:
    (tree / "a\nb").write_text("")


def _not_utf8(tree: Path) -> None:
    (tree / os.fsdecode(b"caf\xe9")).write_text("")


def _reserved(tree: Path) -> None:
    cards.write_tree(tree, {"abboot/record.json": b"{}"})


def _nothing(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.mkdir()


def _gone(tree: Path) -> None:
    shutil.rmtree(tree)


def _a_file(tree: Path) -> None:
    shutil.rmtree(tree)
    tree.write_text("a file")


def _deep(tree: Path) -> None:
    (tree / "/".join("d" * 70)).mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "says", "hint"),
    [
        (_collision, r"con\.txt: it and CON\.TXT have the same name on FAT", "rename or remove"),
        (_link_out, r"tree/passwd: it is a symbolic link out of the tree \(to /etc/passwd\)", "copy"),
        (_link_inside, r"tree/usercfg\.txt: it is a symbolic link \(to config\.txt\)", "copy"),
        (_fifo, "tree/pipe: it is a fifo", "remove"),
        (_five_gib, r"rootfs\.img: a file on FAT has at most 4294967295 bytes, found 5368709120", "remove"),
        (_too_much, r"\d+ bytes needed, \d+ there", "remove files, or use larger slots"),
        (_line_end, r"a\\nb: FAT allows no '\\n' in a name", "rename or remove"),
        (_not_utf8, "name is not UTF-8", "rename"),
        (_reserved, "abboot/record.json: abboot/ at the top of a slot is abboot's own", "rename or remove"),
        (_nothing, "it has no file", "name the folder"),
        (_gone, "no such file or directory", "name the folder"),
        (_a_file, "it is not a folder", "name the folder"),
        (_deep, "levels deep", "remove"),
    ],
)
def test_a_tree_that_cannot_be_put_on_a_slot(
    card: Path, tree: Path, tmp_path: Path, spoil: Callable[[Path], None], says: str, hint: str
) -> None:
    spoil(tree)
    before = card.read_bytes()

    for words in (("--disk", card, "stage", tree), ("--sim", card, "stage", tree, "--dry-run")):
        refuses(*words, says=says, hint=hint)
    refuses("--disk", card, "stage", cards.tree("v2"), "--overlay", tree, says=says, hint=hint)

    assert card.read_bytes() == before
    assert not (tmp_path / "card.img.pi").exists()


@pytest.mark.parametrize("name", ["CON.TXT", "aux", "nul.dtb", "Ünïcode 😀.txt", "a" * 200, "x.tar.gz", "foo+bar=1"])
def test_a_name_that_only_looks_bad_is_taken(card: Path, tree: Path, name: str) -> None:
    (tree / name).write_text("content")

    said("--disk", card, "stage", tree)

    assert said("--disk", card, "verify", "b")["ok"] is True


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--annotate", f"{'k' * 300}=" + "v" * 3000), "2048"),
        (("--label", "two\nlines"), "one printable line"),
        (("--label", "x" * 3000), "2048|one printable line"),
        (("--set-cmdline", 'root="'), "cmdline.txt"),
    ],
)
def test_words_that_cannot_be_kept(card: Path, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    with unchanged(tmp_path):
        refuses("--disk", card, "stage", cards.tree("v2"), *words, says=says, hint=".")


def test_a_tree_that_changes_meanwhile(card: Path, tree: Path) -> None:
    """Whenever the change comes, the stage is whole or it is an error; never a mixture that passes."""
    stop = threading.Event()

    def change() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            (tree / "kernel8.img").write_bytes(bytes([count % 256]) * (30_000 + count % 5000))
            (tree / "overlays/README").unlink(missing_ok=True)
            (tree / "overlays/README").write_bytes(b"again\n")

    worker = threading.Thread(target=change)
    worker.start()
    try:
        results = [abboot("--disk", card, "stage", tree) for _ in range(6)]
    finally:
        stop.set()
        worker.join()

    for ran in results:
        if ran.code:
            assert ran.code == 1
            assert re.fullmatch(r"abboot: cannot .*(changed|no such file).*\n  hint: .*\n", ran.err), ran.err
    assert said("--disk", card, "verify", "a")["ok"] is True
    assert said("--disk", card, "stage", tree)["slot"] == "b"
    assert said("--disk", card, "verify", "b")["ok"] is True


def test_a_tree_that_cannot_be_read(card: Path, tree: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tree / "kernel8.img").chmod(0)

    refuses("--disk", card, "stage", tree, says="kernel8.img: permission denied", hint="")


# -- a second abboot, and a killed one ---------------------------------------------------------------------------------


def test_a_second_abboot_at_the_same_time_is_told_to_try_again(card: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom abboot.linux.blockdevice import open_disk\n"
        "disk = open_disk(sys.argv[1])\n"
        "with disk.lock():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(card)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with unchanged(tmp_path):
            error = refused("--disk", card, "stage", cards.tree("v2"), code=75)
            assert error["type"] == "Locked"
            assert f"another abboot holds it (process {holder.pid})" in error["message"]
            assert error["hint"] == "try again when it is done"
            assert said("--sim", card, "status")["phase"] == "settled"  # reading waits for nobody

        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(10)
    assert said("--disk", card, "stage", cards.tree("v2"))["changed"] is True


def test_the_lock_of_a_killed_abboot_is_gone_with_it(card: Path, tree: Path) -> None:
    os.truncate(tree / "kernel8.img", 2 * MIB)
    child = subprocess.Popen(command("--disk", card, "stage", tree), env=environment(), stdout=subprocess.DEVNULL)
    before = card.read_bytes()
    deadline = time.monotonic() + 20
    while card.read_bytes() == before and child.poll() is None and time.monotonic() < deadline:
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()

    found = said("--disk", card, "status")
    # Killed before the first zero, anywhere in between, or after the boot sector and before the journal had it.
    assert found["slots"]["b"]["state"] in ("good", "incomplete", "unknown", "staged")
    assert (found["primary"], found["slots"]["a"]["state"]) == ("a", "good")
    assert said("--disk", card, "verify", "a")["ok"] is True
    assert said("--disk", card, "stage", tree)["slot"] == "b"


def test_ctrl_c_is_no_traceback(card: Path) -> None:
    slow = card.parent / "abboot.toml"
    slow.write_text('[health]\n[[health.checks]]\nkind = "command"\nname = "slow"\nargv = ["sleep", "30"]\n')
    said("--sim", card, "stage", cards.tree("v2"))
    said("--sim", card, "trial")
    child = subprocess.Popen(
        command("--sim", card, "--config", slow, "confirm"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        # A test run in the background of a shell ignores the interrupt, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not _children(child.pid) and time.monotonic() < deadline:
        time.sleep(0.02)

    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)

    assert (child.returncode, out) == (130, "")
    assert err == "abboot: interrupted; `abboot status` says where that left the device\n"
    assert said("--sim", card, "status")["phase"] == "trial"


def _children(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text() or "".join(
            (entry / "children").read_text() for entry in Path(f"/proc/{pid}/task").iterdir()
        )
    return ""


# -- configuration and specification -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[trial\n", r"abboot\.toml: line 1: expected '\]'"),
        (b"\n[trial]\natempts = 3\n", r"line 3: trial\.atempts: unknown key \(did you mean 'attempts'\?\)"),
        (b"[trail]\n", r"line 1: trail: unknown"),
        (b"[trial]\nattempts = -1\n", r"line 2: trial\.attempts: -1 is not an integer from 1 to 5"),
        (b"\n\xff\n", "line 2: byte 0xff is not UTF-8"),
        (b"#" * (2 << 20), "longer than"),
        (b"a = " + b"[" * 5000, "nested too deeply|line 1"),
    ],
)
def test_a_configuration_that_cannot_be(card: Path, tmp_path: Path, content: bytes, says: str) -> None:
    settings_file = tmp_path / "abboot.toml"
    settings_file.write_bytes(content)

    with unchanged(tmp_path):
        error = refused("--config", settings_file, "--disk", card, "status")

    assert re.search(says, error["message"])
    assert str(settings_file) in error["message"]


def test_every_error_of_a_configuration_is_listed(tmp_path: Path) -> None:
    settings_file = tmp_path / "abboot.toml"
    settings_file.write_text('[trial]\nattempts = "x"\n\n[health]\ninterval = -1\nspeed = 9\n')

    found = said("--config", settings_file, "config", "check", code=1)
    text = abboot("--config", settings_file, "config", "check")

    assert [(error["line"], error["key"]) for error in found["errors"]] == [
        (2, "trial.attempts"),
        (5, "health.interval"),
        (6, "health.speed"),
    ]
    assert (text.code, text.out.count(f"{settings_file}: line ")) == (1, 3)


def test_a_configuration_that_is_named_must_be_there(tmp_path: Path) -> None:
    refuses("--config", tmp_path / "none.toml", "status", says=r"none\.toml: no such file", hint="name a file")
    refuses("--config", tmp_path, "status", says="is a directory|not a regular file", hint="")


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ('[slots]\nsize = "3MiB"\ntree = "nowhere"\n', "nowhere: no such file or directory", "name the folder"),
        ('[slots]\nsize = "3MiB"\n', "no tree is named", "--tree"),
        ('[slots]\nsize = "3MB"\n', "line 2: slots.size: '3MB' is not a size: write ", ""),
        ('[slots]\nsize = "3MiB"\ntre = "x"\n', r"line 3: slots.tre: unknown key \(did you mean 'tree'\?\)", ""),
        ("[slots\n", "spec.toml: line 1: expected", ""),
        ("slots = 3\n", "line 1: slots: 3 is not a table", ""),
        ('[slots]\nsize = "1KiB"\ntree = "tree"\n', "1024 bytes", "partition size"),
        ('[slots]\nsize = "3MiB"\nfat = 32\ntree = "tree"\n', "cannot be FAT32", "FAT type"),
        ('[slots]\nsize = "512KiB"\nfat = 12\ntree = "big"\n', "bytes needed", "larger slots"),
        (
            '[slots]\nsize = "3MiB"\ntree = "tree"\n[[partitions]]\nlabel = "r"\nsize = "1MiB"\nimage = "root.ext4"\n',
            "root.ext4: no such file or directory",
            "partition",
        ),
    ],
)
def test_a_specification_that_cannot_be_built(tmp_path: Path, text: str, says: str, hint: str) -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    cards.write_tree(tmp_path / "tree", cards.tree_files("v1"))
    cards.write_tree(tmp_path / "big", {"kernel8.img": bytes(MIB)})
    (tmp_path / "spec.toml").write_text(text)
    (tmp_path / "card.img").write_bytes(b"an older image")

    with unchanged(tmp_path):
        refuses("image", "build", tmp_path / "spec.toml", "-o", tmp_path / "card.img", says=says, hint=hint)


def test_places_where_no_image_can_be(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text('[slots]\nsize = "3MiB"\n')
    build = ("image", "build", tmp_path / "spec.toml", "--tree", cards.tree("v1"), "-o")

    with unchanged(tmp_path):
        refuses(*build, tmp_path / "none/card.img", says="there is no folder", hint="create the folder")
        refuses(*build, tmp_path, says="not a plain file", hint="build into a file")
        refuses(*build, "/dev/null", says="not a plain file", hint="build into a file")
        refuses(
            "image",
            "build",
            tmp_path / "no.toml",
            "-o",
            tmp_path / "x.img",
            says=r"no\.toml: no such file",
            hint="name a file",
        )


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 KiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a tmpfs of 64 KiB needs root and mount(8)")
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_leaves_no_half_image(tiny_disk: Path, tmp_path: Path) -> None:
    pytest.importorskip("parted", reason="pyparted is not installed (pip install 'abboot[image]')")
    (tmp_path / "spec.toml").write_text('[selector]\nsize = "17MiB"\n[slots]\nsize = "3MiB"\n')

    refuses(
        *("image", "build", tmp_path / "spec.toml", "--tree", cards.tree("v1"), "-o", tiny_disk / "card.img"),
        says=os.strerror(errno.ENOSPC).lower(),
        hint="free some space",
    )

    assert list(tiny_disk.iterdir()) == []


# -- the state of a simulated Pi ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 99}', b"null", b"[" * 100_000, b"\xff"])
def test_a_state_that_cannot_be_read(card: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "card.img.pi").mkdir()
    (tmp_path / "card.img.pi/state.json").write_bytes(content)

    with unchanged(tmp_path):
        refuses("--sim", card, "status", says="cannot read the state of the simulated Pi", hint="remove .*card.img.pi")


def test_a_board_that_is_not_known(card: Path, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        refuses("simulate", "boot", card, "--model", "pi9", says="the model pi9", hint="pi4")
        refuses("simulate", "boot", card, "--bootloader", "new", says="no date", hint="2022-12-01")


def test_a_sysroot_that_is_not_there() -> None:
    refuses("--sysroot", "/nonexistent", "status", says="/nonexistent: there is no such folder", hint="--sysroot")


def test_a_system_without_the_firmwares_word(tmp_path: Path) -> None:
    refuses("--sysroot", tmp_path, "status", says="cannot find the disk", hint="--disk")


# -- anything at all (G10) ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch_image(data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        image = Path(folder) / "card.img"
        image.write_bytes(data)
        yield image
        assert image.read_bytes() == data
        assert os.listdir(folder) == ["card.img"]


def look_at(image: Path) -> None:
    for words in (("--disk", image, "status"), ("--disk", image, "verify", "b"), ("image", "inspect", image)):
        ran = abboot(*words)

        assert ran.code in (0, 1), ran.err
        assert "Traceback" not in ran.err
        assert re.fullmatch(r"(abboot: cannot [^\n]+\n(  hint: [^\n]+\n)?)?", ran.err), ran.err


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=4096), st.booleans())
def test_random_bytes_are_answered(data: bytes, signed: bool) -> None:
    if signed:
        data = data[:510].ljust(510, b"\0") + b"\x55\xaa" + data[510:]
    with scratch_image(data) as image:
        look_at(image)


def _metadata() -> list[tuple[int, int]]:
    """Where the table, boot sectors, FATs, root directories and first files of the card are."""
    disk = cards.CardDisk(cards.card())
    return [(0, 512), *((disk.place(number)[0], 40 * 512) for number in (1, 2, 3))]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card that every example spoils and mends again."""
    return new_card(tmp_path_factory.mktemp("victim"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(_metadata()), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=6,
    )
)
def test_a_card_with_wrong_bytes_is_answered(victim: Path, changes: list[tuple[tuple[int, int], float, bytes]]) -> None:
    # Squared: most of what decides is at the start.
    spots = [(start + int(part * part * size), data) for (start, size), part, data in changes]
    with victim.open("r+b") as file:
        for at, data in spots:
            file.seek(at)
            file.write(data)
    stamp = victim.stat().st_mtime_ns
    try:
        look_at(victim)
        assert victim.stat().st_mtime_ns == stamp  # nothing wrote
        assert os.listdir(victim.parent) == [victim.name]
    finally:
        sound = cards.CardDisk(cards.card())
        with victim.open("r+b") as file:
            for at, data in spots:
                file.seek(at)
                file.write(sound.read(at, len(data)))


def test_the_sources_name_no_other_way_to_print() -> None:
    """Whatever says something to a person is in abboot/cli; so one place decides what a terminal may see."""
    places = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "abboot").rglob("*.py")
        if re.search(r"sys\.std(out|err)|\bprint\(", path.read_text(encoding="utf-8"))
    ]

    assert [place for place in places if not place.startswith("abboot/cli/")] == []
