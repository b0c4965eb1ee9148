"""The plan of a volume: where things go, and what must not move."""

from __future__ import annotations

import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.core.words import FatType
from abboot.errors import InvalidTree
from abboot.fat import names, read, volume
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, VolumePlan, plan_volume
from abboot.fat.volume import Extents, Held, HeldDirectory, HeldFile
from tests.strategies_fat import MIB, SHAPES, Tree, assert_clean, contents_of, new_image, run, stage, trees

SMALL = SHAPES["fat16"].geometry()  # 512-byte clusters
SLOT = Geometry.choose(256 * MIB, label="SLOT-A", volume_id=1)


def sized(sizes: dict[str, int]) -> list[Content]:
    """Files of which only the size matters: nothing is read while planning."""
    return [Content(path=path, size=size, chunks=lambda: iter(())) for path, size in sizes.items()]


def held_by_plan(plan: VolumePlan) -> Held:
    return Held(
        geometry=plan.geometry,
        files=tuple(HeldFile(path=f.content.path, size=f.content.size, extents=f.extents) for f in plan.files),
        directories=tuple(HeldDirectory(path=d.path, extents=d.extents) for d in plan.directories),
    )


def clusters(extents: Extents) -> list[int]:
    return [cluster for start, count in extents for cluster in range(start, start + count)]


def used(plan: VolumePlan) -> list[int]:
    return [c for owner in (*plan.directories, *plan.files) for c in clusters(owner.extents)]


# --- a new volume ---


def test_a_new_volume_has_directories_first_then_the_files_in_path_order_in_one_piece() -> None:
    plan = plan_volume(sized({"z": 5000, "overlays/b": 3000, "overlays/a": 1, "config.txt": 60}), SLOT)

    assert [d.path for d in plan.directories] == ["", "overlays"]
    assert [f.content.path for f in plan.files] == ["config.txt", "overlays/a", "overlays/b", "z"]
    assert used(plan) == list(range(2, 2 + 2 + 1 + 1 + 2 + 3))


@settings(max_examples=30)
@given(tree=trees)
def test_the_same_tree_gives_the_same_bytes_in_whatever_order_it_comes(tree: Tree) -> None:
    geometry = SHAPES["fat32"].geometry()
    one = plan_volume(contents_of(tree), geometry)
    other = plan_volume(contents_of(dict(reversed(tree.items()))), geometry)

    assert (one.fat, one.fsinfo, one.directories) == (other.fat, other.fsinfo, other.directories)
    assert [f.extents for f in one.files] == [f.extents for f in other.files]


def test_a_big_file_leaves_room_behind_it_and_grows_into_it() -> None:
    before = plan_volume(sized({"initramfs8": 12 * MIB, "kernel8.img": 9 * MIB, "start4.elf": 2 * MIB}), SLOT)
    grown = plan_volume(
        sized({"initramfs8": 12 * MIB * 21 // 20, "kernel8.img": 9 * MIB * 21 // 20, "start4.elf": 2 * MIB}),
        SLOT,
        held_by_plan(before),
    )

    for path in ("initramfs8", "kernel8.img"):
        assert len(grown.extents(path)) == 1
        assert grown.extents(path)[0][0] == before.extents(path)[0][0]
    assert grown.extents("start4.elf") == before.extents("start4.elf")


def test_new_files_do_not_take_the_room_of_a_file_that_may_grow() -> None:
    before = plan_volume(sized({"kernel8.img": 8 * MIB, "z": 10}), SLOT)
    plan = plan_volume(sized({"a": 5000, "kernel8.img": 8 * MIB, "z": 10}), SLOT, held_by_plan(before))
    end = sum(plan.extents("kernel8.img")[0])

    assert not set(used(plan)) & set(range(end, end + MIB // SLOT.cluster_size))


def test_room_for_growth_is_given_up_before_a_tree_is_refused() -> None:
    room = (SLOT.cluster_count - 1) * SLOT.cluster_size
    root = SLOT.cluster_size
    rest = room - root - 4 * 60 * MIB

    plan = plan_volume(sized({**{f"big{n}": 60 * MIB for n in range(4)}, "last": rest}), SLOT)

    assert plan.free_clusters == 1
    assert all(len(f.extents) == 1 for f in plan.files)
    with pytest.raises(InvalidTree, match=rf"{room + SLOT.cluster_size} bytes needed, {room} there"):
        plan_volume(sized({**{f"big{n}": 60 * MIB for n in range(4)}, "last": rest + 1}), SLOT)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.needs("fsck.vfat")
def test_a_full_volume_leaves_its_last_cluster_unused(tmp_path: Path, name: str) -> None:
    geometry = SHAPES[name].geometry()
    image = tmp_path / "image"
    in_clusters = geometry.fat_type is FatType.FAT32
    room = (geometry.cluster_count - 1 - in_clusters) * geometry.cluster_size

    plan, _ = stage(new_image(image, geometry.size), {"all": bytes(room)}, geometry)

    assert max(used(plan)) == geometry.last_cluster - 1
    assert plan.free_clusters == 1
    assert_clean(image)


def test_a_file_of_no_bytes_has_no_cluster() -> None:
    plan = plan_volume(sized({"issue.txt": 0}), SLOT)

    assert plan.extents("issue.txt") == ()
    assert plan.directories[0].data[96:][26:32] == bytes(6)  # behind the label and one part of a long name


def test_the_fat_is_zero_behind_its_last_cluster_and_begins_as_the_specification_says() -> None:
    plan = plan_volume(sized({"a": 3000}), SLOT)
    entries = struct.unpack(f"<{len(plan.fat) // 4}I", plan.fat)

    assert entries[:6] == (0x0FFFFFF8, 0x0FFFFFFF, 0x0FFFFFFF, 4, 0x0FFFFFFF, 0)
    assert not any(entries[5:])


def test_fsinfo_counts_what_is_free_and_names_the_first() -> None:
    plan = plan_volume(sized({"a": 3000}), SLOT)

    assert struct.unpack_from("<4sII", plan.fsinfo, 484) == (b"rrAa", SLOT.cluster_count - 3, 5)
    assert plan.free_clusters == SLOT.cluster_count - 3


# --- pinned files ---


def test_a_pinned_file_is_where_it_was_wanted_and_the_others_go_around_it() -> None:
    at = SMALL.last_cluster - 100
    content = [attrs.evolve(c, at_cluster=at) if c.path == "J" else c for c in sized({"a": 3_000_000, "J": 51200})]

    plan = plan_volume(content, SMALL)

    assert plan.extents("J") == ((at, 100),)
    assert len(set(used(plan))) == len(used(plan))


def test_a_pinned_file_takes_its_place_from_one_that_is_there() -> None:
    before = plan_volume(sized({"a": 51200}), SMALL)
    at = before.extents("a")[0][0] + 50
    content = [attrs.evolve(c, at_cluster=at) if c.path == "J" else c for c in sized({"a": 51200, "J": 1024})]

    plan = plan_volume(content, SMALL, held_by_plan(before))

    assert plan.extents("J") == ((at, 2),)
    assert plan.extents("a")[0] == (at - 50, 50)
    assert len(set(used(plan))) == len(used(plan)) == 102


@pytest.mark.parametrize("at", [0, 1, SMALL.last_cluster - 1, 1 << 40])
def test_a_file_cannot_be_pinned_outside_the_volume(at: int) -> None:
    with pytest.raises(InvalidTree, match=f"at cluster {at}: {SMALL.cluster_count} clusters found"):
        plan_volume([attrs.evolve(sized({"J": 1024})[0], at_cluster=at)], SMALL)


def test_two_files_cannot_be_pinned_to_the_same_clusters() -> None:
    content = [attrs.evolve(c, at_cluster=at) for c, at in zip(sized({"J": 1024, "K": 9}), (10, 11), strict=True)]

    with pytest.raises(InvalidTree, match="run into cluster 11"):
        plan_volume(content, SMALL)


# --- a used volume ---


@st.composite
def two_sizes(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, int]]:
    paths = st.sampled_from([f"{d}{n}" for d in ("", "x/", "x/y/", "Z/") for n in "abcdefgh"])
    sizes = st.dictionaries(paths, st.one_of(st.integers(0, 3000), st.integers(0, 400_000)), max_size=20)
    first, second = draw(sizes), draw(sizes)
    for path in draw(st.lists(st.sampled_from(sorted(first)), unique=True)) if first else []:
        second[path] = first[path]
    return first, second


@given(two_sizes())
def test_whatever_keeps_its_path_keeps_its_clusters_and_nothing_is_used_twice(
    sizes: tuple[dict[str, int], dict[str, int]],
) -> None:
    before = plan_volume(sized(sizes[0]), SMALL)
    try:
        after = plan_volume(sized(sizes[1]), SMALL, held_by_plan(before))
    except InvalidTree:
        assert sum(sizes[1].values()) > 2 * MIB
        return

    assert len(set(used(after))) == len(used(after))
    assert all(2 <= cluster < SMALL.last_cluster for cluster in used(after))
    assert after.free_clusters == SMALL.cluster_count - len(used(after))
    for file in after.files:
        path, size = file.content.path, file.content.size
        now = clusters(file.extents)
        assert len(now) == -(-size // SMALL.cluster_size)
        if path in sizes[0]:
            had = clusters(before.extents(path))
            keep = min(len(had), len(now))
            assert now[:keep] == had[:keep]


def test_a_held_file_on_the_last_cluster_loses_only_that_one() -> None:
    last = SMALL.last_cluster
    held = Held(geometry=SMALL, files=(HeldFile(path="a", size=1536, extents=((last - 2, 3),)),))

    plan = plan_volume(sized({"a": 1536}), SMALL, held)

    assert plan.extents("a")[0] == (last - 2, 2)
    assert last not in clusters(plan.extents("a"))


def test_a_change_of_case_costs_no_cluster() -> None:
    before = plan_volume(sized({"pad": 5000, "Kernel8.img": 70_000}), SMALL)
    after = plan_volume(sized({"kernel8.img": 70_000}), SMALL, held_by_plan(before))

    assert after.extents("kernel8.img") == before.extents("Kernel8.img")


def test_what_another_geometry_held_says_nothing_about_clusters() -> None:
    held = Held(geometry=SLOT, files=(HeldFile(path="a", size=10, extents=((100_000, 1),)),))

    assert plan_volume(sized({"a": 10}), SMALL, held).extents("a") == ((2, 1),)


def test_pieces_are_used_when_no_hole_is_large_enough() -> None:
    sizes = {f"{n:04}": 512 for n in range(500)}
    sizes["rest"] = (SMALL.cluster_count - 1 - 500 - 40) * 512
    sizes["directory/x"] = 512
    before = plan_volume(sized(sizes | {"directory/y": 0}), attrs.evolve(SMALL, label=""))
    every_other = {path: size for path, size in sizes.items() if not path.isdigit() or int(path) % 2}

    plan = plan_volume(sized(every_other | {"new": 200 * 512}), attrs.evolve(SMALL, label=""), held_by_plan(before))

    assert len(plan.extents("new")) > 100
    assert len(clusters(plan.extents("new"))) == 200


# --- names ---


@pytest.mark.parametrize(
    ("name", "alias", "entries"),
    [
        ("KERNEL8.IMG", b"KERNEL8 IMG", 1),
        ("README", b"README     ", 1),
        ("config.txt", b"CONFIG  TXT", 2),
        ("Config.txt", b"CONFIG  TXT", 2),
        ("foo.dtbo", b"FOO~1   DTB", 2),
        ("bcm2711-rpi-4-b.dtb", b"BCM271~1DTB", 3),
        (".hidden", b"HIDDEN~1   ", 2),
        ("a.tar.gz", b"ATAR~1  GZ ", 2),
        ("a+b", b"A_B~1      ", 2),
        ("a b", b"AB~1       ", 2),
        ("é", b"_~1        ", 2),
        ("thirteen.char", b"THIRTE~1CHA", 2),
        ("fourteen.chars", b"FOURTE~1CHA", 3),
        ("漢" * 255, b"______~1   ", 21),
    ],
)
def test_a_name_gets_the_alias_that_linux_gives_it(name: str, alias: bytes, entries: int) -> None:
    assert names.aliases([name]) == {name: alias}
    assert names.entry_count(name, alias) == entries
    assert len(names.render(name, alias, 0, 0, 0)) == 32 * entries


@given(st.lists(st.text("aAb~1. +", min_size=1, max_size=14), max_size=60, unique_by=names.fold))
def test_no_two_names_of_a_directory_share_an_alias(found: list[str]) -> None:
    given = names.aliases(found)

    assert len(set(given.values())) == len(given) == len(found)
    for name, alias in given.items():
        text = names.fold(f"{alias[:8].decode().rstrip()}.{alias[8:].decode().rstrip()}".rstrip("."))
        assert text == names.fold(name) or text not in map(names.fold, found), "an alias answers to another file's name"


def test_a_thousand_names_that_begin_alike_all_get_an_alias() -> None:
    given = names.aliases(f"beginning-{n}.dtbo" for n in range(1200))

    assert len(set(given.values())) == 1200
    assert given["beginning-1000.dtbo"] == b"BEG~1001DTB"


@pytest.mark.needs("mdir")
def test_mtools_shows_the_short_and_the_long_names(tmp_path: Path) -> None:
    image = tmp_path / "image"
    stage(new_image(image, SMALL.size), {"foo.dtb": b"1", "foo.dtbo": b"2", "FOO.BAR": b"3", "x.Y": b"4"}, SMALL)

    lines = run("mdir", "-i", image, "::").splitlines()

    assert [line.split()[0:2] + line.split()[5:] for line in lines if "1980-01-01" in line] == [
        ["FOO", "BAR"],
        ["FOO", "DTB", "foo.dtb"],
        ["FOO~1", "DTB", "foo.dtbo"],
        ["X", "Y", "x.Y"],
    ]
    assert "Volume in drive : is SLOT-A" in lines[0]


# --- what does not fit ---


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"a": 1 << 32}, "at most 4294967295 bytes, found 4294967296"),
        ({"CON.TXT": 1, "con.txt": 1}, "cannot put con.txt on a FAT volume: CON.TXT is there too"),
        ({"Overlays/a": 1, "overlays/b": 1}, "cannot put overlays on a FAT volume: Overlays is there too"),
        ({"a": 1, "A/b": 1}, "cannot put a on a FAT volume: A is there too"),
        ({"a": 1, "a/b": 1}, "cannot put a on a FAT volume: a is there too"),
        ({"what?": 1}, r"cannot put what\? on a FAT volume: "),
        ({"dir /x": 1}, "cannot put dir /x on a FAT volume: "),
        ({"/etc": 1}, "cannot put /etc on a FAT volume: "),
        ({"a/../b": 1}, "cannot put a/../b on a FAT volume: "),
        ({"d/" * 40 + "x": 1}, "levels deep"),
        ({f"n{i}": 0 for i in range(300)}, "directory / needs 601 entries, 512 fit"),
        ({f"d/{'long' * 40}{i}": 0 for i in range(5000)}, "directory d needs 70002 entries, 65536 fit"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_tree_that_fat_cannot_hold_is_refused_with_path_and_reason(sizes: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidTree, match=sentence):
        plan_volume(sized(sizes), SMALL)


def test_the_same_path_twice_is_refused() -> None:
    with pytest.raises(InvalidTree, match="cannot put a on a FAT volume: a is there too"):
        plan_volume([*sized({"a": 1}), *sized({"a": 2})], SMALL)


def test_a_plan_stays_within_what_the_reader_follows() -> None:
    assert volume.MAX_ENTRIES <= read.MAX_ENTRIES
    assert volume.MAX_DIRECTORY_SIZE <= read.MAX_DIRECTORY_SIZE
    assert volume.MAX_DIRECTORIES_SIZE <= read.MAX_DIRECTORIES_SIZE
    with pytest.raises(InvalidTree, match="directories of 8960704 bytes needed"):
        plan_volume(sized({f"{d}/{'x' * 240}{i}": 0 for d in range(7) for i in range(2000)}), SLOT)
