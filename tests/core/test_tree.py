"""What of a tree is refused, what is only warned about, and that the words name the file."""

from __future__ import annotations

import string
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.tree import (
    MAX_DEPTH,
    MAX_FILE_SIZE,
    MAX_FILES,
    check_tree,
    fold,
    is_reserved,
    keeps_watchdog,
    panic_seconds,
    problem_of_path,
    shown,
    warn_tree,
    watchdog_seconds,
)
from abboot.errors import InvalidTree

BOOT_TREE = {
    "start4.elf": 2_250_000,
    "fixup4.dat": 5_400,
    "bcm2711-rpi-4-b.dtb": 55_000,
    "bcm2712-rpi-5-b.dtb": 78_000,
    "kernel8.img": 9_000_000,
    "overlays/README": 250_000,
    "overlays/vc4-kms-v3d.dtbo": 2_700,
    "config.txt": 60,
    "cmdline.txt": 80,
}
TEXTS = {
    "config.txt": "arm_64bit=1\nkernel_watchdog_timeout=120\n",
    "cmdline.txt": "console=tty1 root=LABEL=root rootwait panic=10\n",
}


def check(*paths: str) -> None:
    check_tree([(path, 1) for path in paths])


def test_a_boot_tree_is_accepted() -> None:
    check_tree(BOOT_TREE.items(), available=20_000_000)


@pytest.mark.parametrize("char", [*'"*:<>?\\|', "\0", "\n", "\x1f", "\x7f"])
def test_a_character_that_fat_does_not_allow_is_refused(char: str) -> None:
    with pytest.raises(InvalidTree, match="FAT allows no") as caught:
        check(f"overlays/a{char}b")
    assert caught.value.message.isprintable()
    assert caught.value.message.startswith("cannot stage overlays/a")


@pytest.mark.parametrize("char", "!#$%&'()+,-.;=@[]^_`{}~ é中🚀" + string.ascii_letters + string.digits)
def test_a_character_that_fat_allows_is_accepted(char: str) -> None:
    check(f"a{char}b")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "it is empty"),
        ("/config.txt", "it is absolute"),
        ("overlays//README", "it has an empty name"),
        ("overlays/", "it has an empty name"),
        ("../config.txt", "it has the name '..'"),
        ("overlays/./README", "it has the name '.'"),
        ("config.", "FAT allows no '.' at the end"),
        (" config", "FAT allows no ' ' at the start"),
        ("overlays /README", "FAT allows no ' ' at the end"),
        ("caf\udce9", "its name is not text"),
        ("n" * 256, "at most 255 UTF-16 units, found 256"),
        ("🚀" * 128, "at most 255 UTF-16 units, found 256"),
        ("/".join("d" * (MAX_DEPTH + 1)), f"it is {MAX_DEPTH + 1} levels deep"),
    ],
)
def test_a_path_that_fat_cannot_hold_is_refused(path: str, reason: str) -> None:
    with pytest.raises(InvalidTree) as caught:
        check("start4.elf", path)
    assert reason in caught.value.message


@pytest.mark.parametrize("path", ["n" * 255, "🚀" * 127, "/".join("d" * MAX_DEPTH), ".hidden", "in the middle"])
def test_a_path_at_the_limit_is_accepted(path: str) -> None:
    check(path)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["CON.TXT", "con.txt"], "con.txt: it and CON.TXT have the same name"),
        (["é", "É"], "have the same name"),
        (["config.txt", "config.txt"], "have the same name"),
        (["Overlays/a", "overlays/b"], "the directories Overlays and overlays have the same name"),
        (["a/Overlays/a", "a/overlays/b"], "the directories a/Overlays and a/overlays have"),
        (["overlays", "overlays/a"], "overlays is a file, and cannot be a directory too"),
        (["overlays", "OVERLAYS/a"], "and cannot be a"),
        (["A/x", "a"], "A is a directory, and cannot be a file too"),
    ],
)
def test_two_names_that_are_one_on_fat_are_refused(paths: list[str], words: str) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(InvalidTree) as caught:
            check(*order)
        assert words in caught.value.message


def test_the_first_problem_is_named_and_the_others_are_counted() -> None:
    with pytest.raises(InvalidTree, match=r"^cannot stage a\?: FAT allows no '\?' in a name \(and 2 more\)$"):
        check("z.", "ok", "m*", "a?")


def test_a_file_of_4_gib_is_refused_and_one_byte_less_is_not() -> None:
    check_tree([("root.img", MAX_FILE_SIZE)])

    with pytest.raises(InvalidTree, match=r"root.img: a file on FAT has at most 4294967295 bytes, found 4294967296"):
        check_tree([("root.img", MAX_FILE_SIZE + 1)])


def test_more_than_the_slot_holds_is_refused_with_the_figures() -> None:
    with pytest.raises(InvalidTree, match=r"it has 30 bytes in 2 files, the slot has room for 29 .*b with 20"):
        check_tree([("a", 10), ("b", 20)], available=29)
    check_tree([("a", 10), ("b", 20)], available=30)


@pytest.mark.parametrize("path", ["abboot/record.json", "ABBOOT/x", "Abboot"])
def test_the_directory_of_abboot_is_reserved(path: str) -> None:
    assert is_reserved(path)
    with pytest.raises(InvalidTree, match="abboot's own"):
        check(path)


def test_only_the_top_of_the_slot_is_reserved() -> None:
    check("overlays/abboot/x", "abboot.txt")


def test_an_empty_tree_is_refused() -> None:
    with pytest.raises(InvalidTree, match="it has no file"):
        check()


def test_a_tree_without_end_is_refused() -> None:
    with pytest.raises(InvalidTree, match=f"more than {MAX_FILES} files"):
        check_tree((f"f{n}", 0) for n in iter(int, 1))


@given(st.lists(st.text(max_size=8), max_size=5).map(lambda names: "/".join(names)))
def test_any_text_gets_a_verdict(path: str) -> None:
    problem = problem_of_path(path)

    if problem is None:
        check_tree([(path, 0)]) if not is_reserved(path) else None
    else:
        with pytest.raises(InvalidTree):
            check_tree([(path, 0)])


names = st.text(st.characters(codec="utf-8", exclude_characters='"*/:<>?\\|', min_codepoint=32), min_size=1, max_size=6)


@settings(max_examples=200)
@given(st.lists(st.lists(names, min_size=1, max_size=3).map(lambda parts: "/".join(parts)), min_size=1, max_size=6))
def test_an_accepted_tree_has_one_name_for_each_file_and_folder(paths: list[str]) -> None:
    try:
        check(*paths)
    except InvalidTree:
        return

    nodes = {path[:at] for path in paths for at in [*(i for i, c in enumerate(path) if c == "/"), len(path)]}
    assert len({fold(node) for node in nodes}) == len(nodes)
    assert len(nodes - set(paths)) + len(paths) == len(nodes)  # nothing is both a file and a folder, no file twice


@given(st.text())
def test_a_name_in_a_message_is_printable_and_short(text: str) -> None:
    assert shown(text * 20).isprintable() or not text
    assert len(shown(text * 20)) <= 1200


# -- warnings -----------------------------------------------------------------------------------------------------


def test_a_whole_tree_gets_no_warning() -> None:
    assert warn_tree(BOOT_TREE, TEXTS) == ()


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.txt", ["config.txt is missing", "no kernel_watchdog_timeout"]),
        ("cmdline.txt", ["cmdline.txt is missing"]),
        ("fixup4.dat", ["fixup4.dat is missing"]),
        ("kernel8.img", ["no kernel"]),
    ],
)
def test_a_missing_file_is_warned_about(missing: str, words: list[str]) -> None:
    files = {path: size for path, size in BOOT_TREE.items() if path != missing}
    texts = {path: text for path, text in TEXTS.items() if path != missing}

    warnings = warn_tree(files, texts)

    assert [word for word, warning in zip(words, warnings, strict=True) if word not in warning] == []


def test_a_tree_for_one_model_only_is_not_warned_about() -> None:
    for left_out in (("start4.elf", "fixup4.dat"), ("bcm2712-rpi-5-b.dtb",)):
        assert warn_tree({path: 1 for path in BOOT_TREE if path not in left_out}, TEXTS) == ()


def test_a_tree_without_firmware_is_warned_about() -> None:
    files = {path: 1 for path in BOOT_TREE if path not in ("start4.elf", "fixup4.dat", "bcm2712-rpi-5-b.dtb")}

    assert [warning[:11] for warning in warn_tree(files, TEXTS)] == ["no firmware"]


@pytest.mark.parametrize("cmdline", ["root=/dev/sda2", "panic=0", "oops=panic", "kpanic=10", "panic=10x", ""])
def test_a_trial_that_would_hang_in_a_panic_is_warned_about(cmdline: str) -> None:
    (warning,) = warn_tree(BOOT_TREE, {**TEXTS, "cmdline.txt": cmdline})

    assert warning.startswith("cmdline.txt has no panic=10")


@pytest.mark.parametrize("cmdline", ["panic=10", "quiet panic=-1\n", "root=x panic=5 quiet"])
def test_a_trial_that_comes_back_from_a_panic_is_not(cmdline: str) -> None:
    assert warn_tree(BOOT_TREE, {**TEXTS, "cmdline.txt": cmdline}) == ()


@pytest.mark.parametrize("config", ["", "#kernel_watchdog_timeout=120", "kernel_watchdog_timeout=0"])
def test_a_missing_kernel_watchdog_is_warned_about(config: str) -> None:
    (warning,) = warn_tree(BOOT_TREE, {**TEXTS, "config.txt": config})

    assert "kernel_watchdog_timeout=120" in warning


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ("kernel_watchdog_timeout=120\n[all]\nkernel_watchdog_timeout=0", 0),
        ("kernel_watchdog_timeout=0\nkernel_watchdog_timeout=60", 60),
        ("[none]\nkernel_watchdog_timeout=60", 0),
        ("[pi4]\nkernel_watchdog_timeout=60", 60),
        ("kernel_watchdog_timeout=0\n[pi4]\nkernel_watchdog_timeout=60", 0),
        ("[pi4]\n[all]\nkernel_watchdog_timeout=60\n[cm4]\nkernel_watchdog_timeout=0", 60),
    ],
)
def test_of_several_watchdogs_the_last_one_that_every_board_reads_counts(config: str, seconds: int) -> None:
    assert watchdog_seconds(config) == seconds


@pytest.mark.parametrize("cmdline", ["root=x\npanic=10 watchdog_disarm=0\n", "root=x -- panic=10 watchdog_disarm=0"])
def test_a_net_that_the_kernel_may_not_get_does_not_count(cmdline: str) -> None:
    assert (panic_seconds(cmdline), keeps_watchdog(cmdline)) == (0, False)


def test_a_command_line_of_several_lines_is_warned_about() -> None:
    (warning,) = warn_tree(BOOT_TREE, {**TEXTS, "cmdline.txt": "root=x panic=10\n# root=y\n"})

    assert warning.startswith("cmdline.txt has several lines")
    assert warn_tree(BOOT_TREE, {**TEXTS, "cmdline.txt": "root=x panic=10\r\n"}) == ()


def test_files_that_the_boot_rom_acts_on_are_warned_about() -> None:
    warnings = warn_tree({**BOOT_TREE, "RECOVERY.BIN": 1, "pieeprom.upd": 1, "recovery.elf": 1}, TEXTS)

    assert [warning.partition(":")[0] for warning in warnings] == ["recovery.bin", "pieeprom.upd", "recovery.elf"]


def test_the_kernel_and_the_command_line_that_config_txt_names_are_looked_for() -> None:
    config = TEXTS["config.txt"] + "kernel=vmlinuz\nos_prefix=new/\ncmdline=boot.txt\n"

    assert [warning.partition(" ")[2] for warning in warn_tree(BOOT_TREE, {**TEXTS, "config.txt": config})] == [
        "names the kernel vmlinuz, which is not there",
        "is missing: the kernel does not learn its root file system",
    ]
    assert warn_tree({**BOOT_TREE, "new/vmlinuz": 1, "new/boot.txt": 1}, {**TEXTS, "config.txt": config}) == ()


def test_firmware_from_before_a_b_boot_is_warned_about() -> None:
    old, new = date(2022, 8, 26), date(2022, 10, 18)

    assert warn_tree(BOOT_TREE, TEXTS, {"start4.elf": old, "start.elf": new}) == (
        "start4.elf is of 2022-08-26: before 2022-10-18 it wants tryboot.txt in a trial (H-02)",
    )
    assert warn_tree(BOOT_TREE, TEXTS, {"start4.elf": None}) == ()


@pytest.mark.parametrize("config", ["kernel_watchdog_timeout=9\nauto_initramfs=1\n", "kernel_watchdog_timeout=9\n"])
def test_an_initramfs_that_disarms_the_watchdog_is_warned_about(config: str) -> None:
    files = {**BOOT_TREE, "initramfs_2712": 1}

    warnings = warn_tree(files, {**TEXTS, "config.txt": config})

    assert [warning.rpartition(" ")[2] for warning in warnings] == ["(H-25)"] * ("auto_initramfs" in config)
    kept = {**TEXTS, "config.txt": config, "cmdline.txt": "panic=1 watchdog_disarm=0"}
    assert warn_tree(files, kept) == ()


def test_a_line_that_the_firmware_cuts_is_warned_about() -> None:
    config = TEXTS["config.txt"] + "#" * 99 + "\n"

    assert ["98 characters" in warning for warning in warn_tree(BOOT_TREE, {**TEXTS, "config.txt": config})] == [True]


def test_a_boot_ramdisk_is_left_to_itself() -> None:
    assert warn_tree({"boot.img": 1, "boot.sig": 1}, {}) == ()


def test_nothing_is_said_about_texts_that_are_not_known() -> None:
    assert warn_tree(BOOT_TREE, {}) == ()


@given(st.dictionaries(st.text(max_size=12), st.integers(0, 9), max_size=6), st.text(), st.text())
def test_any_tree_gets_its_warnings(files: dict[str, int], config: str, cmdline: str) -> None:
    files = {**files, "config.txt": 1, "cmdline.txt": 1}

    warnings = warn_tree(files, {"config.txt": config, "cmdline.txt": cmdline})

    assert any(warning.startswith("no firmware") for warning in warnings) is not any(
        fold(path) in ("BOOT.IMG", "START.ELF", "START4.ELF") for path in files
    )
