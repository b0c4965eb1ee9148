"""Hooks: which ones there are, what they get, and what becomes of those that fail, hang or print without end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from abboot.errors import AbbootError
from abboot.forklift.hooks import EVENTS, HookRun, failures, find_hooks, run_hooks
from abboot.linux.sysroot import recorded_requests
from tests.cli.command import abboot, new_card, said
from tests.forklift.device import ForkliftStore, text


class Folders:
    """``/usr/lib/forklift/hooks.d`` and ``/etc/forklift/hooks.d`` of a test, and what their hooks noted."""

    def __init__(self, base: Path) -> None:
        self.usr, self.etc, self.log = base / "usr", base / "etc", base / "log"

    @property
    def both(self) -> list[str]:
        return [str(self.usr), str(self.etc)]

    def add(self, place: Path, name: str, script: str = "", *, event: str = "post-set-next", mode: int = 0o755) -> Path:
        path = place / event / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {place.name}/{name} >> {self.log}\n{script}\n")
        path.chmod(mode)
        return path

    def mask(self, name: str, event: str = "post-set-next") -> None:
        path = self.etc / event / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/dev/null")

    def ran(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []

    def run(self, event: str = "post-set-next", *, timeout_s: float = 20.0) -> tuple[HookRun, ...]:
        return run_hooks(event, folders=self.both, store="/stages", bundle=7, timeout_s=timeout_s)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_hooks_run_by_name_whichever_folder_they_are_in(folders: Folders) -> None:
    folders.add(folders.usr, "50-abc")
    folders.add(folders.etc, "10-first")
    folders.add(folders.usr, "9-late")
    folders.add(folders.etc, "50-abc.sh")

    runs = folders.run()

    assert folders.ran() == ["etc/10-first", "usr/50-abc", "etc/50-abc.sh", "usr/9-late"]
    assert all(run.ran and not run.failed for run in runs)


def test_the_same_name_in_etc_overrides_and_a_link_to_dev_null_masks(folders: Folders) -> None:
    for name in ("10-kept", "20-overridden", "30-masked"):
        folders.add(folders.usr, name)
    folders.add(folders.etc, "20-overridden")
    folders.mask("30-masked")

    folders.run()

    assert folders.ran() == ["usr/10-kept", "etc/20-overridden"]


def test_what_editors_and_package_managers_leave_is_no_hook(folders: Folders) -> None:
    for name in (".hidden", "10-a~", "10-a.dpkg-old", "10-a.bak", "10-a.swp", "10 a", "10-a.rpmsave"):
        folders.add(folders.usr, name)

    assert folders.run() == ()


def test_hooks_of_another_event_do_not_run_and_no_folder_is_no_hook(folders: Folders) -> None:
    folders.add(folders.usr, "10-a", event="post-apply")

    assert folders.run() == ()
    assert [run.hook.name for run in folders.run("post-apply")] == ["10-a"]


def test_a_hook_gets_the_event_and_the_documented_environment_and_no_other(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the session")
    folders.add(folders.usr, "10-a", 'echo "$@"; env; readlink /proc/self/fd/0')

    lines = folders.run()[0].output.split("\n")

    shells = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert lines[0] == "post-set-next"
    assert dict(line.split("=", 1) for line in lines if "=" in line and line.split("=")[0] not in shells) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "FORKLIFT_STAGE_STORE": "/stages",
        "FORKLIFT_BUNDLE_INDEX": "7",
        "FORKLIFT_BUNDLE_PATH": "/stages/7",
    }
    assert "/dev/null" in lines


def test_a_hook_that_refuses_ends_a_pre_event(folders: Folders) -> None:
    folders.add(folders.usr, "10-a", event="pre-set-next")
    folders.add(folders.usr, "20-no", "echo the experiment runs >&2; exit 3", event="pre-set-next")
    folders.add(folders.usr, "30-c", event="pre-set-next")

    runs = folders.run("pre-set-next")

    assert folders.ran() == ["usr/10-a", "usr/20-no"]
    assert [(run.ran, run.failed) for run in runs] == [(True, False), (True, True), (False, False)]
    assert failures(runs) == (f"the hook {folders.usr}/pre-set-next/20-no failed: exit status 3: the experiment runs",)


def test_a_hook_that_fails_after_the_fact_stops_no_other(folders: Folders) -> None:
    folders.add(folders.usr, "10-a", "exit 1")
    folders.add(folders.usr, "20-b", "kill -9 $$")
    folders.add(folders.usr, "30-c")

    runs = folders.run()

    assert folders.ran() == ["usr/10-a", "usr/20-b", "usr/30-c"]
    assert [run.why for run in runs] == ["exit status 1", "signal 9", ""]


def test_a_hook_that_hangs_is_killed_with_what_it_started(folders: Folders) -> None:
    folders.add(folders.usr, "10-a", "sleep 60 & sleep 60")
    began = time.monotonic()

    (run,) = folders.run(timeout_s=0.5)

    assert (run.ran, run.failed, run.why) == (True, True, "it was killed after 0.5 s")
    assert time.monotonic() - began < 20


def test_of_a_hook_that_prints_without_end_the_end_is_kept(folders: Folders) -> None:
    folders.add(folders.usr, "10-a", "head -c 3000000 /dev/zero | tr '\\0' x; echo end")

    (run,) = folders.run()

    assert len(run.output) == 4096
    assert run.output.endswith("xend\n")


@pytest.mark.parametrize("what", ["not executable", "no program", "dangling", "folder"])
def test_what_cannot_be_run_is_told_and_of_a_pre_event_refuses(folders: Folders, what: str) -> None:
    path = folders.add(folders.usr, "10-a", event="pre-set-next", mode=0o644 if what == "not executable" else 0o755)
    if what == "no program":
        path.write_bytes(b"\x7fELF nonsense")
    elif what in ("dangling", "folder"):
        path.unlink()
        path.mkdir() if what == "folder" else path.symlink_to("/nowhere/at/all")

    (run,) = folders.run("pre-set-next")

    assert (run.ran, run.failed) == (False, True)
    assert run.why
    assert folders.ran() == []


def test_a_typing_error_is_no_event_without_hooks(folders: Folders) -> None:
    with pytest.raises(AbbootError, match="no such event"):
        find_hooks("post-aply", folders.both)
    assert {event.startswith("pre-") for event in EVENTS} == {True, False}


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(folders: Folders, tmp_path: Path) -> Path:
    path = tmp_path / "abboot.toml"
    path.write_text(f'[forklift]\nhooks = ["{folders.usr}", "{folders.etc}"]\nhook_timeout = "20s"\n')
    return path


@pytest.fixture
def store(tmp_path: Path) -> ForkliftStore:
    store = ForkliftStore(tmp_path / "stages")
    store.folder.mkdir()
    store.path.write_bytes(text(store.build({}), [1], {"factory-reset": 1}))
    return store


def test_the_command_needs_no_disk_and_its_exit_code_is_the_answer(
    folders: Folders, config: Path, store: ForkliftStore
) -> None:
    folders.add(folders.etc, "10-ask", 'test "$FORKLIFT_BUNDLE_INDEX" = 1', event="pre-set-next")
    words = ("--config", config, "forklift", "run-hooks", "--store", store.folder, "pre-set-next")

    assert said(*words) == {
        "schema": 1,
        "event": "pre-set-next",
        "bundle": 1,
        "ok": True,
        "abort": False,
        "hooks": [
            {
                "name": "10-ask",
                "path": f"{folders.etc}/pre-set-next/10-ask",
                "ran": True,
                "failed": False,
                "why": "",
                "output": "",
            }
        ],
    }
    assert said(*words, "factory-reset")["ok"] is True
    assert said(*words, 9, code=1)["abort"] is True  # not staged yet
    assert "a hook refuses" in abboot(*words, 9).out


def test_below_a_sysroot_hooks_are_recorded_and_for_a_simulated_pi_only_listed(
    folders: Folders, config: Path, store: ForkliftStore, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    hook = folders.add(root / "usr/lib/forklift/hooks.d", "10-a", event="post-apply")
    folders.add(folders.usr, "10-a", event="post-apply")

    below = said("--sysroot", root, "forklift", "run-hooks", "post-apply", "--store", store.folder)
    simulated = said(
        *("--config", config, "--sim", new_card(tmp_path), "forklift", "run-hooks", "post-apply"),
        *("--store", store.folder),
    )

    assert [(run["path"], run["ran"]) for run in below["hooks"]] == [(str(hook), False)]
    assert recorded_requests(str(root)) == ({"request": "hook", "event": "post-apply", "path": str(hook), "bundle": 1},)
    assert [run["ran"] for run in simulated["hooks"]] == [False]
    assert folders.ran() == []
