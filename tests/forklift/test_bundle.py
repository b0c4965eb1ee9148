"""Bundles as they lie in a store: whole, half built, lost in a power cut, or hostile."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abboot.errors import AbbootError, InvalidTree
from abboot.forklift.bundle import EMPTY_PAYLOAD, MANIFEST_MAX_SIZE, PAYLOAD_MAX_SIZE, exported, read_bundle
from tests.forklift.device import CAN, ForkliftStore, manifest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def store(tmp_path: Path) -> ForkliftStore:
    return ForkliftStore(tmp_path)


def test_a_whole_bundle_says_what_it_is_and_what_it_brings(store: ForkliftStore) -> None:
    store.build(CAN)

    found = read_bundle(str(store.folder), 1)

    data = (store.folder / "1" / "forklift-bundle.yml").read_bytes()
    assert (found.whole, found.index, found.sha256) == (True, 1, hashlib.sha256(data).hexdigest())
    assert (found.pallet, found.version[:6], found.clean) == ("github.com/example/pallet-boot", "v2026.", True)
    assert found.files == tuple(sorted(CAN))


@pytest.mark.parametrize("files", [CAN, {}, {"b b/ä.txt": b"1", "b": b"2", "c/x": b"3", "a-": b""}], ids=len)
def test_the_payload_is_what_the_documentation_says(store: ForkliftStore, files: dict[str, bytes]) -> None:
    text = (Path(__file__).parents[2] / "docs/reference/formats/forklift.md").read_text("utf-8")
    (command,) = [line for line in text.splitlines() if line.startswith("    find ")]
    store.build({"../../pallet/x": b"", **files})
    folder = store.folder / "1/exports/boot"
    folder.mkdir(parents=True, exist_ok=True)

    ran = subprocess.run(["bash", "-c", command], cwd=folder, check=True, capture_output=True, text=True)

    assert ran.stdout.split()[0] == read_bundle(str(store.folder), 1).payload


def test_the_manifest_that_forklift_itself_wrote_is_read(store: ForkliftStore) -> None:
    store.build(CAN)
    (store.folder / "1" / "forklift-bundle.yml").write_bytes((GOLDEN / "bundle-manifest.yml").read_bytes())

    found = read_bundle(str(store.folder), 1)

    assert (found.whole, found.pallet, found.version, found.clean) == (
        True,
        "github.com/example/pallet-boot",
        "v2026.0.0",
        True,
    )


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (b'  version: "1.0"', "1.0"),
        (b"  version: 'it''s'", "it's"),
        (b"  version: v1 # x", "v1 # x"),
        (b"  version:", ""),
        (b'  version: "\\x"', "\\x"),
        (b"  version: \x1b[31m", " [31m"),
    ],
    ids=repr,
)
def test_a_version_is_read_as_forklift_quotes_it(store: ForkliftStore, line: bytes, version: str) -> None:
    store.build({})
    data = manifest(1).split(b"\n")
    data[3] = line
    (store.folder / "1" / "forklift-bundle.yml").write_bytes(b"\n".join(data))

    found = read_bundle(str(store.folder), 1)

    assert (found.whole, found.version) == (True, version)


@pytest.mark.parametrize("make", ["nothing", "folder", "empty folders"])
def test_a_bundle_without_boot_files_has_the_empty_payload(store: ForkliftStore, make: str) -> None:
    store.build({})
    if make != "nothing":
        (store.folder / "1/exports/boot" / ("overlays/x" if make == "empty folders" else "")).mkdir(parents=True)

    found = read_bundle(str(store.folder), 1)

    assert (found.whole, found.payload, found.files) == (True, EMPTY_PAYLOAD, ())


def test_the_payload_depends_on_paths_and_contents_and_on_nothing_else(store: ForkliftStore) -> None:
    store.build({"a": b"1", "b": b"2"})
    store.build({"b": b"2", "a": b"1"})
    for number, files in enumerate(({"a": b"2", "b": b"1"}, {"a": b"1"}, {"A": b"1", "b": b"2"}), 3):
        store.build(files, index=number)
    (store.folder / "2/exports/boot/a").chmod(0o755)
    os.utime(store.folder / "2/exports/boot/a", (1, 1))

    payloads = [read_bundle(str(store.folder), index).payload for index in range(1, 6)]

    assert payloads[0] == payloads[1]
    assert len(set(payloads)) == 4


def test_another_folder_of_the_exports_can_be_the_one(store: ForkliftStore) -> None:
    store.build({"../boot-pi/firmware/config.d/1.txt": b"x\n"})

    assert read_bundle(str(store.folder), 1, "boot-pi/firmware").files == ("config.d/1.txt",)
    assert read_bundle(str(store.folder), 1).payload == EMPTY_PAYLOAD


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "never finished"),
        (b"", "empty"),
        (b"\0" * 200, "NUL"),
        (manifest(1)[:-1], "was cut"),
        (manifest(1)[:33], "neither"),
        (b"\xff" + manifest(1), "UTF-8"),
        (b"x" * (MANIFEST_MAX_SIZE + 2), "more than"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_is_not_whole_is_a_bundle_that_is_not(
    store: ForkliftStore, data: bytes | None, said: str
) -> None:
    store.build(CAN, whole=False)
    if data is not None:
        (store.folder / "1" / "forklift-bundle.yml").write_bytes(data)

    found = read_bundle(str(store.folder), 1)

    assert (found.whole, found.sha256, found.payload) == (False, None, None)
    assert said in found.problem


@pytest.mark.parametrize("what", ["bundle", "manifest", "exports", "boot"])
@pytest.mark.parametrize("how", ["link", "fifo"])
def test_no_link_leads_out_of_a_bundle_and_no_fifo_is_waited_for(
    store: ForkliftStore, tmp_path: Path, what: str, how: str
) -> None:
    store.build(CAN)
    place = {"bundle": "1", "manifest": "1/forklift-bundle.yml", "exports": "1/exports", "boot": "1/exports/boot"}
    path = store.folder / place[what]
    path.rename(tmp_path / "moved")
    if how == "link":
        path.symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(path)

    assert not read_bundle(str(store.folder), 1).whole


@pytest.mark.parametrize(
    "files",
    [
        {"config.txt": b"1", "CONFIG.TXT": b"2"},
        {"a:b": b"1"},
        {"abboot/record.json": b"{}"},
        {"name.": b"1"},
    ],
    ids=repr,
)
def test_boot_files_that_fat_cannot_hold_are_an_error_that_names_them(
    store: ForkliftStore, files: dict[str, bytes]
) -> None:
    store.build(files)

    found = read_bundle(str(store.folder), 1)

    assert not found.whole
    assert isinstance(found.error, InvalidTree)
    assert any(path in found.problem for path in files)


def test_a_link_among_the_boot_files_is_refused(store: ForkliftStore) -> None:
    store.build(CAN)
    (store.folder / "1/exports/boot/out.txt").symlink_to("/etc/passwd")

    found = read_bundle(str(store.folder), 1)

    assert "out of the tree" in found.problem
    with pytest.raises(InvalidTree):
        exported(str(store.folder), 1)


def test_more_than_fits_any_boot_partition_is_not_even_read(store: ForkliftStore) -> None:
    store.build({"huge": b""})
    with (store.folder / "1/exports/boot/huge").open("wb") as file:
        file.truncate(PAYLOAD_MAX_SIZE + 1)

    assert "handled" in read_bundle(str(store.folder), 1).problem


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_in_place_of_a_manifest_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    store = ForkliftStore(tmp_path_factory.mktemp("store"))
    store.build({}, index=1)
    (store.folder / "1/forklift-bundle.yml").write_bytes(data)

    found = read_bundle(str(store.folder), 1)

    assert found.whole == (found.problem == "") == (found.payload is not None)
    assert isinstance(found.error, AbbootError | None)
