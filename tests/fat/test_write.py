"""A planned volume on the medium: what is written when, and what independent readers find there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from abboot.core.protocols import Buffer
from abboot.core.tree import problem_of_path
from abboot.core.words import FatType
from abboot.errors import AbbootError, VerificationFailed
from abboot.fat.geometry import Geometry
from abboot.fat.plan import Content, plan_volume
from abboot.fat.read import FatVolume
from abboot.fat.write import BUFFER_SIZE, Diff, WriteReport, compare, invalidate, validate, write_content
from tests.devices import Flush, MemoryDevice, Write
from tests.strategies_fat import (
    MIB,
    SHAPES,
    Tree,
    assert_clean,
    contents_of,
    held_by,
    new_image,
    run,
    stage,
    tree_by_mcopy,
    trees,
)

pytestmark = pytest.mark.needs("fsck.vfat", "mkfs.vfat", "mcopy", "mdir")

GEOMETRY = SHAPES["fat32"].geometry()
BOOT_TREE: Tree = {
    "config.txt": b"arm_64bit=1\n" * 100,
    "cmdline.txt": b"console=tty1 root=PARTUUID=deadbeef-02\n",
    "kernel8.img": bytes(range(256)) * 5000,
    "initramfs8": b"\x1f\x8b initramfs" * 90_000,
    "overlays/README": b"overlays\n" * 3000,
    **{f"overlays/overlay-{n}.dtbo": bytes([n]) * (1000 + 97 * n) for n in range(60)},
    "abboot/record.json": b"{}",
}


def staged(tree: Tree = BOOT_TREE, geometry: Geometry = GEOMETRY) -> MemoryDevice:
    device = MemoryDevice(geometry.size, geometry.sector_size)
    stage(device, tree, geometry)
    device.log.clear()
    return device


def content_of(device: MemoryDevice) -> Tree:
    volume = FatVolume(device)
    return {file.path: b"".join(volume.chunks(file.path)) for file in volume.files()}


# --- independent readers ---


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=trees, second=trees, kept=st.sets(st.integers(0, 19)))
def test_any_tree_staged_over_any_other_is_clean_and_comes_back_identical(
    name: str, first: Tree, second: Tree, kept: set[int]
) -> None:
    geometry = SHAPES[name].geometry()
    second = dict(first) if kept == {0} else second
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "image")
        device = new_image(image, geometry.size)
        before, _ = stage(device, first, geometry)
        assert_clean(image)
        assert tree_by_mcopy(image, Path(folder, "first")) == first

        after, report = stage(device, second, geometry, held_by(device))

        assert_clean(image)
        assert tree_by_mcopy(image, Path(folder, "second")) == second
        assert report.changed == (first != second)
        for path in first.keys() & second.keys():
            if len(first[path]) == len(second[path]):
                assert before.extents(path) == after.extents(path)
        device.close()


def test_a_volume_that_mtools_filled_to_the_last_cluster_is_restaged_clean(tmp_path: Path) -> None:
    image, source = tmp_path / "image", tmp_path / "source"
    device = new_image(image, 4 * MIB)
    run("mkfs.vfat", "-F", "16", "-s", "1", "-n", "OTHER", image)
    source.mkdir()
    for path, data in {"config.txt": b"a=1\n", "Kernel8.img": b"k" * 70_000, "old file.txt": b"o" * 5000}.items():
        (source / path).write_bytes(data)
    run("mcopy", "-i", image, *source.iterdir(), "::")
    rest = source / "rest.bin"
    rest.write_bytes(b"r" * FatVolume(device).free_clusters() * 512)
    run("mcopy", "-i", image, rest, "::")
    held = held_by(device)
    last = held.geometry.last_cluster
    assert any(start + count > last for file in held.files for start, count in file.extents)

    tree = {"config.txt": b"a=1\n", "kernel8.img": b"k" * 70_000, "rest.bin": rest.read_bytes()}
    plan, _ = stage(device, tree, held.geometry, held)

    assert_clean(image)
    assert tree_by_mcopy(image, tmp_path / "back") == tree
    assert not any(start + count > last for file in plan.files for start, count in file.extents)
    kernel = next(file for file in held.files if file.path == "Kernel8.img")
    assert plan.extents("kernel8.img") == kernel.extents


def test_a_fat32_of_4096_byte_sectors_is_clean(tmp_path: Path) -> None:
    image = tmp_path / "image"
    geometry = Geometry.choose(
        300 * MIB, label="4KN", volume_id=1, sector_size=4096, fat_type=FatType.FAT32, cluster_size=4096
    )
    device = new_image(image, geometry.size)

    stage(device, BOOT_TREE, geometry)

    assert_clean(image)
    assert tree_by_mcopy(image, tmp_path / "back") == BOOT_TREE


@pytest.mark.parametrize("options", ["-F 32 -s 1 -f 1", "-F 32 -s 2 -R 64 -b 12 -h 8192", "-F 16 -f 1 -r 112"])
def test_a_volume_of_another_shape_keeps_it(tmp_path: Path, options: str) -> None:
    image = tmp_path / "image"
    device = new_image(image, 80 * MIB)
    run("mkfs.vfat", *options.split(), image)
    held = held_by(device)

    stage(device, BOOT_TREE, held.geometry, held)

    assert FatVolume(device).geometry == held.geometry
    assert_clean(image)
    assert tree_by_mcopy(image, tmp_path / "back") == BOOT_TREE


def test_a_volume_without_backup_boot_sector_gets_none(tmp_path: Path) -> None:
    image = tmp_path / "image"
    device = new_image(image, 40 * MIB)
    run("mkfs.vfat", "-F", "32", "-s", "1", "-b", "0", image)
    held = held_by(device)

    stage(device, BOOT_TREE, held.geometry, held)

    assert held.geometry.boot_sector_offsets == (0,)
    assert not any(device.read(6 * 512, 512))
    assert tree_by_mcopy(image, tmp_path / "back") == BOOT_TREE


_any_name = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda name: not problem_of_path(name) and "/" not in name
)


@settings(max_examples=60)
@given(st.lists(_any_name, max_size=20, unique_by=lambda name: name.upper().casefold()))
def test_any_legal_name_comes_back_through_the_codecs_of_pyfatfs(found: list[str]) -> None:
    device = staged(dict.fromkeys(found, b""), SHAPES["fat16"].geometry())

    assert content_of(device).keys() == set(found)


# --- what is written when (G2) ---


def epochs(device: MemoryDevice) -> list[list[Write]]:
    """The writes between flushes."""
    found: list[list[Write]] = [[]]
    for event in device.log:
        if isinstance(event, Flush):
            found.append([])
        else:
            found[-1].append(event)
    return found


@pytest.mark.parametrize("again", [False, True], ids=["onto an empty slot", "onto a used one"])
def test_the_boot_sectors_go_first_and_come_last(again: bool) -> None:
    device = staged() if again else MemoryDevice(GEOMETRY.size)
    changed = {**BOOT_TREE, "kernel8.img": b"other" * 300_000}

    stage(device, changed, GEOMETRY, held_by(device) if again else None)

    zeroed, content, boot, backup, rest = epochs(device)
    assert zeroed == [Write(0, bytes(512)), Write(6 * 512, bytes(512))]
    assert boot == [Write(0, GEOMETRY.boot_sector())]
    assert backup == [Write(6 * 512, GEOMETRY.boot_sector())]
    assert rest == []
    reserved = {sector for w in content for sector in range(w.offset // 512, (w.offset + len(w.data)) // 512)}
    assert not reserved & {0, 6}
    assert content_of(device) == changed


def test_a_full_stage_writes_in_large_pieces_and_no_sector_twice() -> None:
    device = MemoryDevice(GEOMETRY.size)

    plan, report = stage(device, BOOT_TREE, GEOMETRY)

    content = epochs(device)[1]
    sectors = [s for w in content for s in range(w.offset // 512, (w.offset + len(w.data)) // 512)]
    assert len(sectors) == len(set(sectors))
    assert max(len(w.data) for w in content) <= BUFFER_SIZE
    assert len(content) <= 10
    fat = set(range(GEOMETRY.fat_start // 512, (GEOMETRY.fat_start + 2 * GEOMETRY.fat_size) // 512))
    assert fat <= set(sectors)
    assert report.files_written == len(plan.files)
    assert report.write_calls == len(device.writes)
    assert report.bytes_written == sum(len(w.data) for w in device.writes)


def test_a_full_stage_reads_nothing_but_the_boot_sectors() -> None:
    device = MemoryDevice(GEOMETRY.size)

    stage(device, BOOT_TREE, GEOMETRY)

    assert device.bytes_read == 4 * 512


# --- only what differs ---


def test_an_identical_tree_writes_nothing_and_needs_no_barrier() -> None:
    device = staged()

    _, report = stage(device, BOOT_TREE, GEOMETRY, held_by(device))

    assert device.log == []
    assert report == WriteReport()
    assert not report.changed


def test_another_config_txt_writes_its_own_sectors_and_the_boot_sectors() -> None:
    device = staged()
    config = BOOT_TREE["config.txt"][:-12] + b"arm_64bit=0\n"

    _, report = stage(device, {**BOOT_TREE, "config.txt": config}, GEOMETRY, held_by(device))

    assert report.bytes_written == 512 + 4 * 512
    assert report.files_written == 1
    assert content_of(device)["config.txt"] == config


def test_a_kernel_that_grew_costs_only_itself() -> None:
    device = staged()
    kernel = bytes(reversed(range(256))) * 5250

    plan, report = stage(device, {**BOOT_TREE, "kernel8.img": kernel}, GEOMETRY, held_by(device))

    assert len(kernel) <= report.bytes_written <= 1.01 * len(kernel)
    assert report.files_written == 1
    assert len(plan.extents("kernel8.img")) == 1
    assert content_of(device)["kernel8.img"] == kernel


def test_sectors_that_are_right_by_chance_are_not_written_on_a_used_slot() -> None:
    device = staged()
    kernel = bytearray(BOOT_TREE["kernel8.img"])
    kernel[1000] ^= 1
    kernel[700_000] ^= 1

    stage(device, {**BOOT_TREE, "kernel8.img": bytes(kernel)}, GEOMETRY, held_by(device))

    assert [len(w.data) for w in epochs(device)[1]] == [512, 512]


def test_a_missing_backup_boot_sector_is_a_difference() -> None:
    device = staged()
    device.content[6 * 512 : 7 * 512] = bytes(512)

    _, report = stage(device, BOOT_TREE, GEOMETRY, held_by(device))

    assert report.bytes_written == 4 * 512
    assert device.content[6 * 512 : 7 * 512] == GEOMETRY.boot_sector()


@settings(max_examples=25)
@given(first=trees, second=trees)
def test_a_slot_that_a_cut_left_invalid_is_written_whole_whatever_lies_there(first: Tree, second: Tree) -> None:
    geometry = SHAPES["fat16"].geometry()
    device = staged(first, geometry)
    invalidate(device, geometry)

    stage(device, second, geometry)

    assert content_of(device) == second


# --- what goes wrong ---


def failing(path: str, planned: int, chunks: list[bytes]) -> list[Content]:
    return [*contents_of({"a": b"first"}), Content(path=path, size=planned, chunks=lambda: iter(chunks))]


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([b"x" * 9], "it ends 991 bytes early"),
        ([], "it ends 1000 bytes early"),
        ([b"x" * 1000, b"", b"y"], "it is longer than it was"),
        ([b"x" * 1001], "it is longer than it was"),
    ],
)
def test_a_source_that_changes_while_it_is_staged_leaves_the_slot_invalid(chunks: list[bytes], found: str) -> None:
    device = staged()
    plan = plan_volume(failing("kernel8.img", 1000, chunks), GEOMETRY)
    diff = compare(device, plan, None)
    invalidate(device, GEOMETRY)

    with pytest.raises(AbbootError, match=f"cannot stage kernel8.img: {found}"):
        write_content(device, plan, diff)

    assert not any(device.content[:512])
    assert not any(device.content[6 * 512 : 7 * 512])


def test_a_source_that_changed_is_found_before_anything_is_written_on_a_used_slot() -> None:
    device = staged()
    held = held_by(device)
    plan = plan_volume(failing("kernel8.img", 1000, [b"short"]), GEOMETRY, held)

    with pytest.raises(AbbootError, match="cannot stage kernel8"):
        compare(device, plan, held)

    assert device.log == []


def test_empty_chunks_are_not_the_end_of_a_source() -> None:
    device = MemoryDevice(GEOMETRY.size)
    plan = plan_volume(failing("k", 1000, [b"", b"x" * 500, b"", b"", b"y" * 500, b""]), GEOMETRY)

    write_content(device, plan, compare(device, plan, None))
    validate(device, GEOMETRY)

    assert content_of(device)["k"] == b"x" * 500 + b"y" * 500


class ForgetfulDevice(MemoryDevice):
    """A card that acknowledges writes to one sector and does not keep them (H-47)."""

    def __init__(self, content: bytes, forgets: int) -> None:
        super().__init__(content)
        self._forgets = forgets

    def _pwrite(self, offset: int, data: Buffer) -> None:
        if offset != self._forgets:
            super()._pwrite(offset, data)


@pytest.mark.parametrize("offset", GEOMETRY.boot_sector_offsets)
def test_a_card_that_does_not_zero_a_boot_sector_is_found_out(offset: int) -> None:
    device = ForgetfulDevice(bytes(staged().content), offset)

    with pytest.raises(VerificationFailed, match=f"boot sector at byte {offset} does not read back as zeros"):
        invalidate(device, GEOMETRY)


@pytest.mark.parametrize("offset", GEOMETRY.boot_sector_offsets)
def test_a_card_that_does_not_keep_a_boot_sector_leaves_the_slot_invalid(offset: int) -> None:
    device = staged()
    invalidate(device, GEOMETRY)
    forgetful = ForgetfulDevice(bytes(device.content), offset)

    with pytest.raises(VerificationFailed, match=f"boot sector at byte {offset} does not read back as written"):
        validate(forgetful, GEOMETRY)

    assert not any(forgetful.content[:512])


@pytest.mark.parametrize(("size", "block"), [(GEOMETRY.size - 512, 512), (GEOMETRY.size, 4096)])
def test_a_plan_for_another_device_is_refused(size: int, block: int) -> None:
    device = MemoryDevice(size // block * block, block)

    with pytest.raises(AbbootError, match=r"cannot stage to memory: a volume of \d+ bytes in sectors of 512 planned"):
        compare(device, plan_volume([], GEOMETRY), None)


# --- progress ---


def test_progress_counts_up_to_the_total_and_is_not_called_for_every_file() -> None:
    device = MemoryDevice(GEOMETRY.size)
    plan = plan_volume(contents_of(BOOT_TREE), GEOMETRY)
    diff = compare(device, plan, None)
    calls: list[tuple[int, int, str]] = []

    write_content(device, plan, diff, lambda *call: calls.append(call))

    done = [call[0] for call in calls]
    assert done == sorted(set(done))
    assert calls[-1][:2] == (diff.bytes, diff.bytes)
    assert {call[1] for call in calls} == {diff.bytes}
    assert 1 < len(calls) <= 2 + diff.bytes // MIB


# --- ranges ---


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=12))
def test_exactly_the_ranges_of_a_diff_are_written(pieces: list[tuple[int, int]]) -> None:
    geometry = SHAPES["fat12"].geometry()
    tree = {"a": b"a" * 50_000, "b": b"b" * 40_000}
    plan = plan_volume(contents_of(tree), geometry)
    base = geometry.data_start // 512
    wanted = sorted({base + s for start, count in pieces for s in range(start, min(start + count, 178))})
    ranges: list[tuple[int, int]] = []
    for sector in wanted:
        if ranges and sum(ranges[-1]) == sector * 512:
            ranges[-1] = (ranges[-1][0], ranges[-1][1] + 512)
        else:
            ranges.append((sector * 512, 512))
    device = MemoryDevice(geometry.size)

    write_content(device, plan, Diff(ranges=tuple(ranges), boot_sectors=()))

    assert sorted(s for w in device.writes for s in range(w.offset // 512, (w.offset + len(w.data)) // 512)) == wanted


def test_a_source_is_read_in_the_pieces_it_gives() -> None:
    """The planner never asks for a file as a whole: 40 MiB pass through in the chunks of the source."""
    largest = 0

    def chunks() -> Iterator[bytes]:
        nonlocal largest
        for n in range(320):
            largest = max(largest, n)
            yield bytes([n % 256]) * 4096

    device = MemoryDevice(GEOMETRY.size)
    plan = plan_volume([Content(path="k", size=320 * 4096, chunks=chunks)], GEOMETRY)
    write_content(device, plan, compare(device, plan, None))
    validate(device, GEOMETRY)

    assert largest == 319
    assert content_of(device)["k"] == b"".join(bytes([n % 256]) * 4096 for n in range(320))
