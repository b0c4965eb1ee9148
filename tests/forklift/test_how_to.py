"""What docs/how-to/forklift-image.md shows, done: its wrapper run, its files read, its session replayed."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from abboot.config_file import parse_config
from abboot.core.words import Slot
from abboot.errors import AbbootError
from abboot.forklift import Need
from abboot.forklift.hooks import EVENTS
from abboot.units import unit_files
from tests.cli.command import abboot, environment, new_card
from tests.forklift.device import CAN, Device, ForkliftStore, text

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "forklift-image.md").read_text("utf-8")
BLOCKS = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
WRAPPER = ROOT / "docs" / "how-to" / "examples" / "forklift_wrapper.py"


@pytest.fixture
def wrapper() -> ModuleType:
    spec = importlib.util.spec_from_file_location("forklift_wrapper", WRAPPER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "stages")


class Commands:
    """In place of the programs: Forklift's do what they would, all are noted."""

    def __init__(self, device: Device, files: dict[str, bytes]) -> None:
        self.device, self.files = device, files
        self.ran: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> None:
        self.ran.append(words)
        if words[:3] == ("forklift", "plt", "switch"):
            self.device.forklift.plt_stage(self.files)
        elif words[:3] == ("forklift", "stage", "set-next"):
            self.device.forklift.set_next(int(words[3]))


# -- the wrapper ----------------------------------------------------------------------------------------------------


def test_the_wrapper_carries_an_update_with_boot_files_and_reports_it(wrapper: ModuleType, device: Device) -> None:
    commands = Commands(device, CAN)
    assert wrapper.report(device.adapter()) == "no bundle was tried yet"

    pending = wrapper.update(device.adapter(), "github.com/example/pallet@edge", commands)
    assert (pending.need, pending.bundle) == (Need.TRIAL, 2)
    wrapper.activate(device.pi.manager(), pending, commands)
    device.boots()
    assert device.booted is Slot.B
    assert "is being tried" in wrapper.report(device.adapter())
    device.forklift.apply()
    device.adapter().rebind()
    with pytest.raises(AbbootError, match="cannot update now"):
        wrapper.update(device.adapter(), "github.com/example/pallet@edge", commands)
    device.pi.manager().confirm()

    told = wrapper.report(device.adapter())
    assert told.startswith("bundle 2 (github.com/example/pallet-boot v2026.")
    assert ": committed, " in told
    assert commands.ran == [("forklift", "plt", "switch", "github.com/example/pallet@edge")]


def test_the_wrapper_needs_no_reboot_for_a_container_update(wrapper: ModuleType, device: Device) -> None:
    commands = Commands(device, {})

    pending = wrapper.update(device.adapter(), "github.com/example/pallet@edge", commands)
    wrapper.activate(device.pi.manager(), pending, commands)

    assert pending.need is Need.APPLY
    assert commands.ran[-1] == ("systemctl", "soft-reboot")


def test_the_wrapper_goes_back_only_if_the_hooks_agree(wrapper: ModuleType, device: Device) -> None:
    device.updates(CAN)

    def refuses(*words: str) -> None:
        if words[0] == "abboot":
            raise subprocess.CalledProcessError(1, words)
        raise AssertionError(f"{words} after a refusal")

    with pytest.raises(subprocess.CalledProcessError):
        wrapper.back(device.adapter(), "1", refuses)
    assert device.forklift.store.next == 2

    commands = Commands(device, {})
    assert wrapper.back(device.adapter(), "1", commands).need is Need.TRIAL
    assert commands.ran[0] == ("abboot", "forklift", "run-hooks", "pre-set-next", "1")


def test_the_wrapper_says_what_is_wrong_on_a_machine_that_is_no_pi(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, WRAPPER, "report"], capture_output=True, text=True, check=False, env=environment(), timeout=60
    )

    assert ran.returncode == 1
    assert "cannot find the disk" in ran.stderr
    assert "Traceback" not in ran.stderr


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_configuration_of_the_page_is_one() -> None:
    (config,) = [body for word, body in BLOCKS if word == "toml"]

    assert parse_config(config).forklift.exports == "boot"
    assert parse_config(config).health.checks


def test_the_page_names_every_unit_event_and_variable_that_there_is() -> None:
    missing = [
        name for name in (*(file.unit for file in unit_files("forklift") if file.unit), *EVENTS) if name not in PAGE
    ]

    assert missing == []
    for variable in ("FORKLIFT_STAGE_STORE", "FORKLIFT_BUNDLE_INDEX", "FORKLIFT_BUNDLE_PATH"):
        assert variable in PAGE
    for path in re.findall(r"\]\(((?!https?:)[^)#]+)", PAGE):
        assert (ROOT / "docs" / "how-to" / path).exists(), path


@pytest.mark.needs("sh")
def test_the_hook_of_the_page_is_a_program(tmp_path: Path) -> None:
    (hook,) = [body for word, body in BLOCKS if word == "sh"]
    path = tmp_path / "50-tell"
    path.write_text(hook)

    subprocess.run([shutil.which("sh") or "sh", "-n", path], check=True)


def test_the_status_of_the_page_is_what_is_printed(tmp_path: Path) -> None:
    """Line by line, but for the versions that the tests count up."""
    store = ForkliftStore(tmp_path / "stages")
    store.folder.mkdir()
    store.path.write_bytes(text(store.build({}), [1], {"factory-reset": 1}))
    card = new_card(tmp_path)
    for words in (("apply-result", "success"), ("store-changed",)):
        abboot("--sim", card, "forklift", *words, "--store", store.folder)
        if words[0] == "apply-result":
            store.plt_stage(CAN)

    printed = abboot("--sim", card, "forklift", "status", "--store", store.folder).out

    (shown,) = [body for word, body in BLOCKS if "abboot forklift status\n" in body and "sudo reboot" in body]
    shown = shown.split("abboot forklift status\n")[1].split("$ sudo reboot")[0]
    printed = printed.replace(str(store.folder), "/var/lib/forklift/stages")
    assert re.sub(r"v2026\.[0-9]+\.0", "V", printed) == re.sub(r"v2026\.[0-9]+\.0", "V", shown)
