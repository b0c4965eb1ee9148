"""Trees from folders and volumes: what is no file is refused, what changes is noticed, layers are laid in order."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abboot.core.protocols import FileInfo
from abboot.core.tree import MAX_DEPTH, check_tree, fold
from abboot.errors import AbbootError, InvalidTree
from abboot.sources import CHUNK_SIZE, FolderSource, MemoryFile, SourceFile, VolumeSource, digest_all, merge


def make(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def content(file: SourceFile) -> bytes:
    return b"".join(file.chunks())


def texts(files: tuple[SourceFile, ...]) -> dict[str, str]:
    return {file.path: content(file).decode() for file in files}


# -- folders ------------------------------------------------------------------------------------------------------


def test_a_folder_gives_every_file_sorted_by_path(tmp_path: Path) -> None:
    make(tmp_path, start=b"s", overlays__b=b"ob", overlays__a=b"oa", zero=b"", overlays__deep__c=b"odc")

    files = FolderSource(tmp_path, "folder new").scan()

    assert texts(files) == {"overlays/a": "oa", "overlays/b": "ob", "overlays/deep/c": "odc", "start": "s", "zero": ""}
    assert [file.path for file in files] == sorted(file.path for file in files)
    assert [file.size for file in files] == [2, 2, 3, 1, 0]
    assert {file.origin for file in files} == {"folder new"}


def test_a_file_can_be_read_again_and_in_bounded_chunks(tmp_path: Path) -> None:
    data = os.urandom(2 * CHUNK_SIZE + 5)
    (file,) = FolderSource(make(tmp_path, big=data)).scan()

    assert content(file) == content(file) == data
    assert max(map(len, file.chunks())) <= CHUNK_SIZE


def test_empty_folders_are_left_out(tmp_path: Path) -> None:
    (make(tmp_path, a=b"x") / "empty").mkdir()

    assert [file.path for file in FolderSource(tmp_path).scan()] == ["a"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path, real__a=b"x")
    (tmp_path / "link").symlink_to("real")

    assert texts(FolderSource(str(tmp_path / "link")).scan()) == {"a": "x"}


@pytest.mark.parametrize("problem", ["no such file or directory", "it is not a folder", "it has no file"])
def test_a_folder_that_is_no_tree_is_refused(tmp_path: Path, problem: str) -> None:
    folder = {
        "no such file or directory": tmp_path / "missing",
        "it is not a folder": make(tmp_path, file=b"") / "file",
        "it has no file": tmp_path / "empty",
    }[problem]
    (tmp_path / "empty").mkdir()

    with pytest.raises(InvalidTree, match=f"^cannot read the tree {folder}: {problem}$"):
        FolderSource(folder).scan()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("../../etc/passwd", r"a symbolic link out of the tree \(to \.\./\.\./etc/passwd\)"),
        ("/etc/passwd", r"a symbolic link out of the tree \(to /etc/passwd\)"),
        ("../config.txt", r"a symbolic link \(to \.\./config\.txt\)"),
        ("missing", r"a symbolic link \(to missing\)"),
        ("..", r"a symbolic link \(to \.\.\)"),
    ],
)
def test_a_symbolic_link_is_refused(tmp_path: Path, target: str, words: str) -> None:
    make(tmp_path, config=b"x", overlays__a=b"y")
    (tmp_path / "overlays/link").symlink_to(target)

    with pytest.raises(InvalidTree, match=f"overlays/link: it is {words}; FAT has none"):
        FolderSource(tmp_path).scan()


def test_special_files_are_refused_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(make(tmp_path, a=b"x") / "pipe")
    with pytest.raises(InvalidTree, match="pipe: it is a fifo, not a file"):
        FolderSource(tmp_path).scan()

    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(InvalidTree, match="socket: it is a socket, not a file"):
            FolderSource(tmp_path).scan()


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9", "wb"):
        pass

    with pytest.raises(InvalidTree, match=r"caf\\udce9: its name is not UTF-8") as caught:
        FolderSource(tmp_path).scan()
    assert caught.value.message.isprintable()


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    make(tmp_path, **{"__".join("d" * (MAX_DEPTH + 1)): b"x"})

    with pytest.raises(InvalidTree, match=f"more than {MAX_DEPTH} levels deep"):
        FolderSource(tmp_path).scan()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (make(tmp_path, secret=b"x") / "secret").chmod(0)

    with pytest.raises(AbbootError, match="secret: permission denied"):
        digest_all(FolderSource(tmp_path).scan())


def test_a_file_that_changed_since_the_scan_is_noticed(tmp_path: Path) -> None:
    def grow(path: Path) -> None:
        path.write_bytes(b"longer")

    def rewrite(path: Path) -> None:
        path.write_bytes(b"1235")
        os.utime(path, ns=(1, 1))

    def replace(path: Path) -> None:
        (tmp_path / "new").write_bytes(b"1234")
        (tmp_path / "new").rename(path)

    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to("/etc/hostname")

    def pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    for change in (grow, rewrite, replace, link, pipe, Path.unlink):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        (file,) = FolderSource(make(tmp_path, a=b"1234")).scan()
        change(tmp_path / "a")

        with pytest.raises(AbbootError, match=f"^cannot read {tmp_path}/a: it changed while it was being read$"):
            content(file)


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    (file,) = FolderSource(make(tmp_path, a=bytes(CHUNK_SIZE + 9))).scan()

    for change in (lambda: os.truncate(tmp_path / "a", CHUNK_SIZE), lambda: os.utime(tmp_path / "a", ns=(1, 1))):
        make(tmp_path, a=bytes(CHUNK_SIZE + 9))
        (file,) = FolderSource(tmp_path).scan()
        chunks = file.chunks()
        next(chunks)
        change()
        with pytest.raises(AbbootError, match="it changed while it was being read"):
            list(chunks)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (file,) = FolderSource(make(tmp_path, a=bytes(3 * CHUNK_SIZE))).scan()
    before = len(os.listdir("/proc/self/fd"))

    chunks = file.chunks()
    next(chunks)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del chunks
    content(file)

    assert len(os.listdir("/proc/self/fd")) == before


# -- volumes ------------------------------------------------------------------------------------------------------


@attrs.frozen
class DictVolume:
    data: dict[str, bytes]

    def files(self) -> tuple[FileInfo, ...]:
        return tuple(FileInfo(path=path, size=len(data)) for path, data in self.data.items())

    def find(self, path: str) -> FileInfo | None:
        return next((file for file in self.files() if fold(file.path) == fold(path)), None)

    def chunks(self, path: str) -> Iterator[bytes]:
        yield self.data[path]

    def read_file(self, path: str, limit: int) -> bytes:
        return self.data[path][:limit]


def test_a_slot_gives_its_tree_and_not_what_abboot_says_of_it() -> None:
    volume = DictVolume({"start4.elf": b"s", "ABBOOT/record.json": b"{}", "abboot/x": b"", "overlays/abboot": b"o"})

    files = VolumeSource(volume, "slot a").scan()

    assert texts(files) == {"overlays/abboot": "o", "start4.elf": "s"}
    assert {file.origin for file in files} == {"slot a"}


# -- layers -------------------------------------------------------------------------------------------------------


def layer(origin: str, *paths: str) -> tuple[SourceFile, ...]:
    return tuple(MemoryFile(path, f"{path} of {origin}".encode(), origin) for path in paths)


def origins(files: tuple[SourceFile, ...]) -> dict[str, str]:
    return {file.path: file.origin for file in files}


def test_a_later_layer_wins() -> None:
    merged = merge(layer("base", "a", "b", "c"), [layer("one", "b", "c"), layer("two", "c", "d")])

    assert origins(merged) == {"a": "base", "b": "one", "c": "two", "d": "two"}
    assert texts(merged)["c"] == "c of two"


def test_case_does_not_hide_a_replacement() -> None:
    merged = merge(layer("base", "CONFIG.TXT"), [layer("one", "config.txt")])

    assert origins(merged) == {"config.txt": "one"}


def test_a_folder_keeps_the_spelling_that_is_there() -> None:
    merged = merge(layer("base", "Overlays/Sub/a"), [layer("one", "overlays/b", "OVERLAYS/sub/A", "overlays/New/c")])

    assert origins(merged) == {"Overlays/Sub/A": "one", "Overlays/b": "one", "Overlays/New/c": "one"}
    check_tree((file.path, file.size) for file in merged)
    assert texts(merged)["Overlays/b"] == "overlays/b of one"


@pytest.mark.parametrize("layers", [("CON.TXT", "con.txt"), ("a", "a/b"), ("X/1", "x/2")])
def test_a_collision_within_one_layer_is_left_for_the_check(layers: tuple[str, ...]) -> None:
    for merged in (merge(layer("base", *layers), []), merge(layer("base", "ok"), [layer("one", *layers)])):
        with pytest.raises(InvalidTree):
            check_tree((file.path, file.size) for file in merged)


folders = st.sampled_from(["", "a/", "A/", "a/b/", "A/B/"])
layers = st.lists(st.tuples(folders, st.sampled_from("xyXY")).map("".join), max_size=4, unique_by=fold)


@given(layers, st.lists(layers, max_size=3))
def test_the_last_layer_that_has_a_file_gives_it(base: list[str], overlays: list[list[str]]) -> None:
    numbered = [layer(str(number), *paths) for number, paths in enumerate([base, *overlays])]
    expected = {fold(file.path): file.origin for files in numbered for file in files}

    merged = merge(numbered[0], numbered[1:])

    assert {fold(file.path): file.origin for file in merged} == expected
    assert len(merged) == len(expected)


# -- digests ------------------------------------------------------------------------------------------------------


def test_the_manifest_is_what_sha256sum_says(tmp_path: Path) -> None:
    make(tmp_path, a=b"x" * 3_000_000, overlays__b=b"", c=b"y")
    manifest = digest_all(FolderSource(tmp_path).scan())

    command = ["sha256sum", "--", "a", "c", "overlays/b"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout == manifest.render()


def test_progress_counts_every_byte_once() -> None:
    calls: list[tuple[int, int, str]] = []
    files = (*layer("base", "a", "b"), MemoryFile("c", b"", "base"))

    digest_all(files, lambda done, total, path: calls.append((done, total, path)))

    assert calls == [(9, 18, "a"), (18, 18, "b"), (18, 18, "c")]


@pytest.mark.parametrize("chunks", [[b"12"], [b"123", b"45"], []])
def test_a_source_of_another_length_is_refused(chunks: list[bytes]) -> None:
    file = SourceFile(path="a", size=4, chunks=lambda: iter(chunks), origin="slot b")

    with pytest.raises(AbbootError, match=r"^cannot read a of slot b: it changed while it was being read$"):
        digest_all([file])


def test_a_source_without_end_is_refused() -> None:
    file = SourceFile(path="a", size=4, chunks=lambda: iter(lambda: b"x", b""), origin="slot b")

    with pytest.raises(AbbootError, match="it changed"):
        digest_all([file])


def test_no_file_makes_no_manifest() -> None:
    with pytest.raises(InvalidTree, match="it lists no file"):
        digest_all([])
