"""The files of the stage store: bounded reads, a durable write that a cut cannot halve, and what Forklift leaves."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from abboot.errors import DeviceError, Refused
from abboot.forklift import StageStore, StoreDamaged, list_bundles, read_store, remove_stale_swap, write_store
from abboot.forklift.store import MAX_SIZE
from abboot.forklift.store_file import STORE, SWAP

OLD = StageStore(next=1, history=(1,)).render()
NEW = StageStore(next=2, history=(1,)).render()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with something in it."""
    path = tmp_path / "stages"
    path.mkdir()
    (path / STORE).write_bytes(OLD)
    return path


def test_a_store_is_read_with_its_bytes(folder: Path) -> None:
    reading = read_store(str(folder))

    assert (reading.data, reading.problem, reading.swap) == (OLD, "", None)
    assert reading.store == StageStore.parse(OLD)


def test_a_swap_file_is_seen_and_does_not_count(folder: Path) -> None:
    (folder / SWAP).write_bytes(NEW[:20])

    reading = read_store(str(folder))

    assert (reading.data, reading.swap) == (OLD, NEW[:20])


def test_damaged_bytes_are_kept_with_the_reason(folder: Path) -> None:
    (folder / STORE).write_bytes(bytes(106))

    reading = read_store(str(folder))

    assert (reading.data, reading.store) == (bytes(106), None)
    assert reading.problem == "cannot read the stage store: its 106 bytes are all zero"


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no regular file"),
        (lambda path: os.mkfifo(path), "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a link"),
        (lambda path: path.symlink_to(path.name), "it is a link"),
    ],
)
def test_what_is_no_file_is_neither_read_nor_waited_for(folder: Path, make: object, found: str) -> None:
    (folder / STORE).unlink()
    make(folder / STORE)  # type: ignore[operator]

    reading = read_store(str(folder))

    assert (reading.data, reading.store) == (None, None)
    assert found in reading.problem


@pytest.mark.parametrize("path", ["nowhere", "stages/" + STORE])
def test_without_a_folder_there_is_no_store(folder: Path, path: str) -> None:
    reading = read_store(str(folder.parent / path))

    assert (reading.data, reading.store) == (None, None)
    assert reading.problem.startswith("cannot open ")


def test_no_more_is_read_than_could_be_a_store(folder: Path) -> None:
    with (folder / STORE).open("wb") as file:
        file.truncate(1 << 40)

    reading = read_store(str(folder))

    assert reading.data is not None
    assert len(reading.data) == MAX_SIZE + 1
    assert reading.store is None


def test_a_store_is_replaced_with_the_mode_that_forklift_gives_it(folder: Path) -> None:
    (folder / STORE).chmod(0o600)

    assert write_store(str(folder), NEW, instead_of=OLD)

    assert (folder / STORE).read_bytes() == NEW
    assert stat.S_IMODE((folder / STORE).stat().st_mode) == 0o644
    assert os.listdir(folder) == [STORE]


def test_the_same_bytes_are_not_written_again(folder: Path) -> None:
    before = (folder / STORE).stat()

    assert not write_store(str(folder), OLD, instead_of=OLD)

    after = (folder / STORE).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_swap_file_stops_a_write_until_it_is_removed(folder: Path) -> None:
    (folder / SWAP).write_bytes(b"")

    with pytest.raises(Refused, match=f"{SWAP} is there"):
        write_store(str(folder), NEW, instead_of=OLD)
    assert (folder / STORE).read_bytes() == OLD

    assert remove_stale_swap(str(folder))
    assert not remove_stale_swap(str(folder))
    assert write_store(str(folder), NEW, instead_of=OLD)


def test_what_forklift_wrote_meanwhile_is_not_undone(folder: Path) -> None:
    meanwhile = StageStore(next=3, history=(1,)).render()
    (folder / STORE).write_bytes(meanwhile)

    with pytest.raises(Refused, match="somebody else just wrote it"):
        write_store(str(folder), NEW, instead_of=OLD)

    assert (folder / STORE).read_bytes() == meanwhile
    assert not (folder / SWAP).exists()  # or Forklift could write nothing any more


def test_what_is_no_store_is_not_written(folder: Path) -> None:
    with pytest.raises(StoreDamaged):
        write_store(str(folder), b"next: 1\n", instead_of=OLD)

    assert os.listdir(folder) == [STORE]
    assert (folder / STORE).read_bytes() == OLD


def test_a_link_is_replaced_and_what_it_leads_to_is_not_touched(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.write_bytes(b"mine")
    for name in (STORE, SWAP):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(elsewhere)

    assert read_store(str(folder)).data is None
    assert remove_stale_swap(str(folder))
    assert write_store(str(folder), NEW, instead_of=None)

    assert elsewhere.read_bytes() == b"mine"
    assert not (folder / STORE).is_symlink()
    assert (folder / STORE).read_bytes() == NEW


def test_a_write_that_fails_leaves_no_swap_file_behind(folder: Path) -> None:
    (folder / STORE).unlink()
    (folder / STORE).mkdir()

    with pytest.raises(DeviceError, match="is a directory"):
        write_store(str(folder), NEW, instead_of=None)

    assert os.listdir(folder) == [STORE]


def test_the_bundles_are_those_that_forklift_would_find_again(folder: Path) -> None:
    for name in ("1", "10", "2", "0", "-1", "+3", "04", "5x", "x", "٦", "9223372036854775807", "9223372036854775808"):
        (folder / name).mkdir()
    (folder / "7").write_bytes(b"")
    (folder / "8").symlink_to("1")

    assert list_bundles(str(folder)) == (1, 2, 10, 2**63 - 1)
    assert list_bundles(str(folder / "nowhere")) == ()


# What the operating system is asked for by a write, one call after the other; the child dies before call number N.
CHILD = """
import json, os, shutil, sys
from abboot.forklift import store_file

folder, data, start = sys.argv[1], bytes.fromhex(sys.argv[2]), json.loads(sys.argv[3])
NAMES = ("open", "fchmod", "write", "fsync", "rename", "unlink", "close")
calls, limit = [], None

def counted(name, real):
    def call(*args, **more):
        if limit is not None:
            if len(calls) == limit:
                os._exit(9)
            if name == "write" and len(calls) == limit - 1:
                args = (args[0], args[1][:7])  # and a write may come to half of it
            calls.append(name)
        return real(*args, **more)
    return call

for name in NAMES:
    setattr(os, name, counted(name, getattr(os, name)))
store_file.StageStore.parse(data)  # whatever is loaded on the way is not counted
found = []
for at in range(1000):
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    for name, content in start.items():
        open(os.path.join(folder, name), "wb").write(bytes.fromhex(content))
    pid = os.fork()
    if pid == 0:
        limit, calls[:] = at, []
        if start.get(store_file.SWAP) is not None:
            store_file.remove_stale_swap(folder)
        store_file.write_store(folder, data, instead_of=store_file.read_store(folder).data)
        open(folder + ".calls", "w").write(json.dumps(calls))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    files = {name: open(os.path.join(folder, name), "rb").read().hex() for name in os.listdir(folder)}
    store_file.remove_stale_swap(folder)
    store_file.write_store(folder, data, instead_of=store_file.read_store(folder).data)
    healed = {name: open(os.path.join(folder, name), "rb").read().hex() for name in os.listdir(folder)}
    found.append([code, files, healed])
    if code == 0:
        break
print(json.dumps([json.load(open(folder + ".calls")), found]))
"""


@pytest.mark.parametrize("start", [{STORE: OLD}, {}, {STORE: OLD, SWAP: NEW[:9]}, {STORE: b"", SWAP: b""}])
def test_a_cut_before_any_call_leaves_the_old_store_or_the_new_one(tmp_path: Path, start: dict[str, bytes]) -> None:
    files = json.dumps({name: content.hex() for name, content in start.items()})
    command = [sys.executable, "-c", CHILD, str(tmp_path / "stages"), NEW.hex(), files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    calls, found = json.loads(done.stdout)

    codes = [code for code, _, _ in found]
    assert codes == [9] * (len(codes) - 1) + [0]
    assert len(codes) > 8
    old = start.get(STORE)
    seen = [bytes.fromhex(after[STORE]) if STORE in after else None for _, after, _ in found]
    assert seen == [old] * seen.count(old) + [NEW] * seen.count(NEW)
    assert all(set(after) <= {STORE, SWAP} for _, after, _ in found)
    # Whatever a cut left, early boot heals it and writes what it meant to.
    assert all(healed == {STORE: NEW.hex()} for _, _, healed in found)
    # The bytes are on the medium before the name leads to them, and the name before the caller hears of it.
    rename = calls.index("rename")
    assert calls[: rename + 1].count("rename") == 1
    assert max(at for at, call in enumerate(calls[:rename]) if call == "write") < calls[:rename].index(
        "fsync", calls.index("write")
    )
    assert "fsync" in calls[rename:]
