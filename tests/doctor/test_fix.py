"""``doctor --fix``: what is missing is added to a folder, once; nothing else is touched."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.tree import keeps_watchdog, look_at_tree, panic_seconds, watchdog_seconds
from abboot.doctor import examine_tree
from abboot.doctor.fix import fix_cmdline, fix_config, fix_tree
from abboot.errors import AbbootError, InvalidTree, Refused
from tests import cards
from tests.doctor.bench import clean_files


def bare(folder: Path, **changes: bytes | None) -> Path:
    """A tree without nets."""
    files: dict[str, bytes | None] = {
        **clean_files(),
        "config.txt": b"arm_64bit=1\n[pi4]\nkernel=kernel8.img",
        "cmdline.txt": b"console=tty1 root=LABEL=root rootwait",
        **changes,
    }
    return cards.write_tree(folder, {name: data for name, data in files.items() if data is not None})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return bare(tmp_path / "tree")


def test_the_nets_are_added(tree: Path) -> None:
    assert [finding.id for finding in examine_tree(str(tree)).findings] == ["H-24", "H-24"]

    fixed = fix_tree(str(tree))

    assert fixed.changed == ("config.txt", "cmdline.txt")
    assert (tree / "cmdline.txt").read_text() == ("console=tty1 root=LABEL=root rootwait panic=10 watchdog_disarm=0\n")
    assert (tree / "config.txt").read_text().splitlines()[-2:] == [
        "# added by abboot doctor: a kernel that hangs is reset, and the primary boots",
        "kernel_watchdog_timeout=120",
    ]
    assert examine_tree(str(tree)).findings == ()
    assert "RuntimeWatchdogSec" in fixed.hints[0]


def test_the_new_setting_is_under_no_filter(tree: Path) -> None:
    fix_tree(str(tree))

    lines = (tree / "config.txt").read_text().splitlines()
    filters = [line for line in lines[: lines.index("kernel_watchdog_timeout=120")] if line.startswith("[")]
    assert filters[-1] == "[all]"


def test_the_diff_shows_both_files(tree: Path) -> None:
    lines = fix_tree(str(tree)).diff.splitlines()

    assert [line for line in lines if line.startswith(("---", "+++"))] == [
        "--- a/config.txt",
        "+++ b/config.txt",
        "--- a/cmdline.txt",
        "+++ b/cmdline.txt",
    ]
    assert "-console=tty1 root=LABEL=root rootwait" in lines
    assert "+console=tty1 root=LABEL=root rootwait panic=10 watchdog_disarm=0" in lines
    assert "+kernel_watchdog_timeout=120" in lines


def test_fixing_again_changes_nothing(tree: Path) -> None:
    fix_tree(str(tree))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tree.rglob("*")}

    again = fix_tree(str(tree))

    assert (again.changed, again.diff) == ((), "")
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tree.rglob("*")} == before


def test_other_files_their_order_and_modes_stay(tree: Path) -> None:
    (tree / "cmdline.txt").chmod(0o640)
    others = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and path.suffix != ".txt"}

    fix_tree(str(tree))

    assert {path: path.read_bytes() for path in others} == others
    assert (tree / "cmdline.txt").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tree.iterdir() if "abboot" in path.name] == []


def test_settings_that_do_something_stay(tmp_path: Path) -> None:
    tree = bare(
        tmp_path / "tree",
        **{
            "config.txt": b"kernel_watchdog_timeout=60\r\narm_64bit=1\r\n",
            "cmdline.txt": b"panic=-1 watchdog_disarm=0 root=LABEL=root\n",
        },
    )

    assert fix_tree(str(tree)).changed == ()


def test_a_watchdog_that_is_switched_off_is_switched_on_in_its_place() -> None:
    assert fix_config("a=1\r\nkernel_watchdog_timeout=0\r\nb=2\r\n") == (
        "a=1\r\nkernel_watchdog_timeout=120\r\nb=2\r\n"
    )


def test_a_setting_under_a_filter_is_not_taken_for_the_one_of_every_board() -> None:
    for filtered in ("[cm4]\nkernel_watchdog_timeout=0\n", "[none]\nkernel_watchdog_timeout=60\n"):
        fixed = fix_config(f"{filtered}[all]\na=1\n")

        assert fixed.startswith(f"{filtered}[all]\na=1\n")
        assert fixed.endswith(
            "\n[all]\n# added by abboot doctor: a kernel that hangs is reset, and the primary boots\n"
            "kernel_watchdog_timeout=120\n"
        )
        assert watchdog_seconds(fixed) == 120


def test_of_two_settings_the_last_one_is_switched_on() -> None:
    text = "kernel_watchdog_timeout=60\na=1\nkernel_watchdog_timeout=0\n"

    assert fix_config(text) == text.replace("=0", "=120")


def test_a_folder_to_be_laid_over_another_gets_no_config_txt_that_would_hide_the_one_below(tmp_path: Path) -> None:
    folder = cards.write_tree(tmp_path / "overlay", {"cmdline.txt": b"root=x\n", "kernel8.img": b"kernel"})

    fixed = fix_tree(str(folder))

    assert fixed.changed == ("cmdline.txt",)
    assert sorted(os.listdir(folder)) == ["cmdline.txt", "kernel8.img"]
    assert "there is no config.txt" in fixed.hints[0]


def test_a_folder_that_is_no_boot_tree_stays_as_it_is(tmp_path: Path) -> None:
    folder = cards.write_tree(tmp_path / "home", {"notes.txt": b"mine"})

    with pytest.raises(Refused, match=r"it has neither a config\.txt nor a cmdline\.txt$"):
        fix_tree(str(folder))

    assert os.listdir(folder) == ["notes.txt"]


def test_a_file_that_cannot_be_written_to_its_end_leaves_nothing_to_be_staged(tree: Path) -> None:
    before = sorted(path.name for path in tree.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))  # as a full disk: a write ends early
    try:
        with pytest.raises(AbbootError, match=r"cannot fix .*config\.txt: file too large"):
            fix_tree(str(tree))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert sorted(path.name for path in tree.iterdir()) == before


def test_the_command_line_that_config_txt_names_is_fixed(tmp_path: Path) -> None:
    tree = bare(
        tmp_path / "tree", **{"config.txt": b"cmdline=boot.cmd\nkernel_watchdog_timeout=9\n", "boot.cmd": b"root=x\n"}
    )

    assert fix_tree(str(tree)).changed == ("boot.cmd",)
    assert (tree / "boot.cmd").read_text() == "root=x panic=10 watchdog_disarm=0\n"


def test_a_tree_without_a_command_line_is_told_so(tmp_path: Path) -> None:
    tree = bare(tmp_path / "tree", **{"cmdline.txt": None})

    fixed = fix_tree(str(tree))

    assert fixed.changed == ("config.txt",)
    assert "no cmdline.txt" in fixed.hints[-1]


def test_bytes_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    tree = bare(tmp_path / "tree", **{"config.txt": b"# caf\xe9\n\xff\xfe\n"})

    fix_tree(str(tree))

    assert (tree / "config.txt").read_bytes().startswith(b"# caf\xe9\n\xff\xfe\n")


# -- what is refused --------------------------------------------------------------------------------------------------


def _sysroot(folder: Path, mount: Path, kind: str) -> str:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/mountinfo").write_text(
        f"21 1 8:1 / / rw - ext4 /dev/root rw\n42 21 179:2 / {mount} rw,noatime - {kind} /dev/mmcblk0p2 rw\n"
    )
    return str(folder)


def test_a_folder_on_a_mounted_boot_partition_is_refused(tree: Path, tmp_path: Path) -> None:
    sysroot = _sysroot(tmp_path / "root", tree.parent, "vfat")
    before = (tree / "config.txt").read_bytes()

    with pytest.raises(Refused, match="it lies on the FAT volume that is mounted on") as caught:
        fix_tree(str(tree), sysroot=sysroot)

    assert "copy the tree to a folder" in caught.value.hint
    assert (tree / "config.txt").read_bytes() == before


def test_a_link_to_a_mounted_boot_partition_is_refused_too(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree)

    with pytest.raises(Refused):
        fix_tree(str(tmp_path / "link"), sysroot=_sysroot(tmp_path / "root", tree, "vfat"))


def test_another_file_system_is_not(tree: Path, tmp_path: Path) -> None:
    assert fix_tree(str(tree), sysroot=_sysroot(tmp_path / "root", tree, "btrfs")).changed != ()


def test_a_link_in_the_tree_is_not_followed(tree: Path, tmp_path: Path) -> None:
    running = tmp_path / "running-config.txt"
    running.write_text("arm_64bit=1\n")
    (tree / "config.txt").unlink()
    (tree / "config.txt").symlink_to(running)

    with pytest.raises(InvalidTree):
        fix_tree(str(tree))

    assert running.read_text() == "arm_64bit=1\n"


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTree, match="cannot read the tree"):
        fix_tree(str(tmp_path / "nothing"))


def test_a_config_that_is_no_config_is_refused(tmp_path: Path) -> None:
    tree = bare(tmp_path / "tree", **{"config.txt": bytes(300 * 1024)})

    with pytest.raises(AbbootError, match="it has more than 262144 bytes"):
        fix_tree(str(tree))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error_and_stays(tree: Path) -> None:
    tree.chmod(0o500)

    with pytest.raises(AbbootError, match="cannot fix"):
        fix_tree(str(tree))


# -- any text ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(
    st.sampled_from(["a=1", "[pi4]", "[all]", "kernel_watchdog_timeout=0", "kernel_watchdog_timeout=60", "#x", ""])
).map("\n".join)


@given(TEXTS)
def test_any_config_gets_a_watchdog_once(text: str) -> None:
    once = fix_config(text)

    assert watchdog_seconds(once) > 0
    assert fix_config(once) == once
    assert len(once.splitlines()) >= len(text.splitlines())


@given(st.text(st.characters(codec="ascii", exclude_characters='"'), max_size=60))
def test_any_command_line_gets_its_nets_once(text: str) -> None:
    words = text.split()
    once = fix_cmdline(text)

    if "--" not in words:
        assert panic_seconds(once)
        assert keeps_watchdog(once)
    assert fix_cmdline(once) == once


def test_what_is_fixed_is_what_stage_warns_about(tree: Path) -> None:
    fix_tree(str(tree))
    files = {str(path.relative_to(tree)): path.stat().st_size for path in tree.rglob("*") if path.is_file()}
    texts = {name: (tree / name).read_text() for name in ("config.txt", "cmdline.txt")}

    assert look_at_tree(files, texts) == ()
