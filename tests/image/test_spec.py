"""A specification is legal, or one line says where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.settings import SettingError
from abboot.core.words import FatType, Slot, TableKind
from abboot.errors import ConfigError
from abboot.image.spec import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, load_spec, parse_spec

MIB = 1 << 20
DEMO = Path(__file__).parents[2] / "images" / "demo.toml"


def test_the_demo_card_is_what_its_comments_say() -> None:
    spec = load_spec(DEMO)

    assert spec == ImageSpec(
        disk=DiskSpec(table=TableKind.MBR, id=None),
        selector=SelectorSpec(size=32 * MIB, label="BOOTSEL"),
        slots=SlotsSpec(
            size=256 * MIB,
            fat=FatType.FAT32,
            cluster=2048,
            tree=str(DEMO.parent / "../.cache/boot-tree"),
            labels=("BOOT_A", "BOOT_B"),
            primary=Slot.A,
        ),
    )


def test_a_slot_size_is_enough() -> None:
    spec = parse_spec('[slots]\nsize = "64MiB"', "card.toml")

    assert spec == ImageSpec(slots=SlotsSpec(size=64 * MIB))
    assert (spec.disk.table, spec.selector.size, spec.slots.primary) == (TableKind.MBR, 32 * MIB, Slot.A)


def test_everything_can_be_said() -> None:
    spec = parse_spec(
        """
        [disk]
        table = "gpt"
        id = "01234567-89AB-4DEF-8123-456789ABCDEF"
        [selector]
        size = 20971520
        label = "SEL"
        [slots]
        size = "1GiB"
        fat = 16
        cluster = "32KiB"
        tree = "/srv/tree"
        labels = ["ONE", "TWO"]
        primary = "b"
        [[partitions]]
        label = "root"
        size = "2GiB"
        image = "root.ext4"
        [[partitions]]
        label = "data"
        size = "1MiB"
        """,
        "card.toml",
        "/etc/cards",
    )

    assert spec.disk.id == "01234567-89ab-4def-8123-456789abcdef"
    assert spec.slots.tree == "/srv/tree"
    assert spec.slots.fat is FatType.FAT16
    assert spec.partitions == (
        PartitionSpec(label="root", size=2 << 30, image="/etc/cards/root.ext4"),
        PartitionSpec(label="data", size=MIB),
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[slots]\nsize = '256MB'", "line 2: slots.size: '256MB' is not a size: write \"64MiB\""),
        ("[slots]\nfat = 32", "line 1: slots.size: it is missing: the size of each"),
        ("", "slots.size: it is missing"),
        ("[slots]\nsize = 513", "line 2: slots.size: 513 is not a positive multiple of 512 bytes"),
        ("[slots]\nsize = 0", "line 2: slots.size: 0 is not a positive multiple of 512 bytes"),
        ("[slots]\nsize = -512", "line 2: slots.size: -512 is not a size"),
        ("[slots]\nsize = 512\nfat = 13", "line 3: slots.fat: 13 is not 12, 16 or 32"),
        ("[slots]\nsize = 512\nfat = true", "line 3: slots.fat: true is not 12, 16 or 32"),
        ("[slots]\nsize = 512\ncluster = 3000", "line 3: slots.cluster: 3000 is not a cluster size"),
        ("[slots]\nsize = 512\nlabels = ['A', 'A']", "line 3: slots.labels: two different labels are needed"),
        ("[slots]\nsize = 512\nlabels = ['A']", "line 3: slots.labels: two different labels are needed"),
        ("[slots]\nsize = 512\nlabels = ['boot_a', 'B']", "line 3: slots.labels: 'boot_a' is not a volume label"),
        ("[slots]\nsize = 512\nprimary = 'c'", "line 3: slots.primary: 'c' is not one of a, b"),
        ("[slots]\nsize = 512\nlable = 3", "line 3: slots.lable: unknown key (did you mean 'labels'?)"),
        ("colour = 3\n[slots]\nsize = 512", "line 1: colour: unknown key"),
        ("slots = 3", "line 1: slots: 3 is not a table"),
        ("[disk]\ntable = 'apm'\n[slots]\nsize = 512", "line 2: disk.table: 'apm' is not one of mbr, gpt"),
        ("[disk]\nid = 'xyz'\n[slots]\nsize = 512", "line 2: disk.id: 'xyz' is not the id of a disk with MBR"),
        ("[selector]\nlabel = 'TOO LONG LABEL'\n[slots]\nsize = 512", "line 2: selector.label: 'TOO LONG LABEL'"),
        ("partitions = 3\n[slots]\nsize = 512", "line 1: partitions: write [[partitions]]"),
        (
            "[slots]\nsize = 512\n[[partitions]]\nlabel = 'a'\nsize = 512\n[[partitions]]\nlabel = 'b'\nsize = '1TB'",
            "line 8: partitions[2].size: '1TB' is not a size",
        ),
        (f"[slots]\nsize = 512\n[[partitions]]\nlabel = '{'x' * 37}'\nsize = 512", "line 4: partitions[1].label: "),
        ("[slots\nsize = 512", "line 1: expected ']' at the end of a table declaration"),
        (f"x = {'[' * 5000}{']' * 5000}", "arrays or tables are nested too deeply"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_key(text: str, found: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_spec(text, "card.toml")

    assert str(error.value).startswith(f"cannot read card.toml: {found}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[slots]\nsize = '\xff'", "line 2: byte 0xff is not UTF-8"),
        (b"#" * (MIB + 1), "it is longer than 65536 bytes"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "card.toml").write_bytes(data)

    with pytest.raises(ConfigError) as error:
        load_spec(tmp_path / "card.toml")

    assert str(error.value) == f"cannot read {tmp_path / 'card.toml'}: {found}"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*/none\.toml: no such file"):
        load_spec(tmp_path / "none.toml")


def test_values_from_python_are_checked_as_those_from_a_file() -> None:
    assert SlotsSpec(size="64MiB").size == 64 * MIB  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="513 is not a positive multiple"):
        SlotsSpec(size=513)
    with pytest.raises(SettingError, match="is not the id of a disk with GPT"):
        DiskSpec(table=TableKind.GPT, id="1234abcd")


_VALUES = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans() | st.floats(allow_nan=False) | st.just("64MiB"),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_KEYS = st.sampled_from(["table", "id", "size", "label", "fat", "cluster", "tree", "labels", "primary", "image", "no"])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08X}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


@given(
    st.dictionaries(
        st.sampled_from(["disk", "selector", "slots"]), st.dictionaries(_KEYS, _VALUES, max_size=4), min_size=1
    )
)
def test_any_values_give_a_specification_or_one_line(tables: dict[str, dict[str, object]]) -> None:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]

    try:
        spec = parse_spec("\n".join(lines), "card.toml")
    except ConfigError as error:
        message = error.message
    else:
        assert spec.slots.size % 512 == 0
        return

    assert message.isprintable()
    assert len(message) < 400
