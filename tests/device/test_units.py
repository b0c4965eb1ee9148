"""The systemd units of a device: installed into a root, enabled, and judged by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from abboot.cli.parser import SPECS
from abboot.config_file import load_config
from abboot.core.check_spec import CheckSpec
from abboot.errors import AbbootError, DeviceError
from abboot.units import install_units, is_cycle, unit_files, verify_units
from tests.cli.command import abboot, refused, said

UNITS = "etc/systemd/system"
SERVICES = sorted(file.unit for file in unit_files() if file.unit)
needs_analyze = pytest.mark.needs("systemd-analyze")
needs_systemctl = pytest.mark.needs("systemctl")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of an image with the units of this machine's systemd, a shell, and something in abboot's place."""
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/bin").mkdir()
    (root / "etc").mkdir()
    units = Path("/usr/lib/systemd/system")
    if units.is_dir():
        shutil.copytree(units, root / "usr/lib/systemd/system", symlinks=True)
    for name in ("abboot", "sh", "rm", "systemctl"):
        program = root / "usr/bin" / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("usr/lib")
    return root


def write_unit(root: Path, name: str, text: str) -> None:
    place = root / UNITS / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def enable(root: Path, unit: str, where: str) -> None:
    folder = root / UNITS / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / unit).symlink_to(f"/{UNITS}/{unit}")


def links_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path)
        for path in sorted((root / UNITS).rglob("*"))
        if path.is_symlink()
    }


# -- what is written ------------------------------------------------------------------------------------------------


def test_units_links_and_a_configuration_are_written_once(root: Path) -> None:
    first = install_units(str(root), verify=False)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    second = install_units(str(root), verify=False)

    assert first.changed
    assert first.unchanged == ()
    assert second.changed == ()
    assert set(second.unchanged) == {path for path in first.changed if path != "etc/abboot.toml"}
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before


@needs_systemctl
def test_they_are_enabled_as_systemctl_would(root: Path, tmp_path: Path) -> None:
    install_units(str(root), verify=False)
    ours = links_of(root)
    for path in ours:
        (root / path).unlink()

    subprocess.run(["systemctl", f"--root={root}", "enable", *SERVICES], check=True, capture_output=True)

    assert links_of(root) == ours
    assert sorted(ours) == [
        f"{UNITS}/multi-user.target.wants/abboot-confirm.service",
        f"{UNITS}/sysinit.target.wants/abboot-deadline.timer",
        f"{UNITS}/sysinit.target.wants/abboot-note-boot.service",
    ]


def test_a_configuration_that_is_there_is_left_alone(root: Path) -> None:
    (root / "etc/abboot.toml").write_text("[trial]\nattempts = 3\n")

    install_units(str(root), verify=False)

    assert load_config(str(root / "etc/abboot.toml")).trial.attempts == 3


def test_the_configuration_that_is_left_is_all_defaults_and_so_are_its_examples(root: Path, tmp_path: Path) -> None:
    install_units(str(root), verify=False)
    text = (root / "etc/abboot.toml").read_text()
    lines = [
        line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# [[", "# kind", "# host", "# port"))
    ]
    (tmp_path / "examples.toml").write_text("\n".join(lines))

    assert load_config(str(root / "etc/abboot.toml")).health.checks == ()
    found: tuple[CheckSpec, ...] = load_config(str(tmp_path / "examples.toml")).health.checks
    assert [check.kind for check in found] == ["no_failed_units", "tcp"]


def test_an_older_unit_is_replaced_and_a_drop_in_is_not(root: Path) -> None:
    write_unit(root, "abboot-confirm.service", "[Service]\nExecStart=/bin/false\n")
    write_unit(root, "abboot-deadline.timer.d/override.conf", "[Timer]\nOnBootSec=\nOnBootSec=30min\n")

    install_units(str(root), verify=False)

    assert "abboot confirm" in (root / UNITS / "abboot-confirm.service").read_text()
    assert "30min" in (root / UNITS / "abboot-deadline.timer.d/override.conf").read_text()


def test_the_command_may_be_elsewhere(root: Path) -> None:
    install_units(str(root), executable="/opt/abboot/bin/abboot", verify=False)
    started = [
        line
        for name in SERVICES
        for line in (root / UNITS / name).read_text().splitlines()
        if line.startswith("ExecStart=") and "abboot" in line
    ]

    assert len(started) == 3
    assert all(line.startswith("ExecStart=/opt/abboot/bin/abboot ") for line in started)


@pytest.mark.parametrize("path", ["abboot", "/usr/bin/a b", "/usr/bin/%n", "/usr/bin/a\nExecStart=/bin/sh", ""])
def test_a_command_that_systemd_would_read_otherwise_is_refused(root: Path, path: str) -> None:
    with pytest.raises(AbbootError, match="cannot install units that start"):
        install_units(str(root), executable=path)

    assert not (root / "etc/systemd").exists()


def test_a_root_that_leads_out_of_itself_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "etc/systemd").symlink_to(outside)

    with pytest.raises(DeviceError, match="outside of"):
        install_units(str(root))

    assert list(outside.iterdir()) == []


def test_no_folder_no_units(tmp_path: Path) -> None:
    assert "no such folder" in refused("install-units", "--root", tmp_path / "nowhere")["message"]


def test_every_verb_that_a_unit_starts_is_one() -> None:
    started = [
        line.split()
        for file in unit_files()
        for line in file.text.splitlines()
        if line.startswith("ExecStart=/usr/bin/abboot")
    ]

    assert sorted(words[1] for words in started) == ["confirm", "deadline", "note-boot"]
    assert {words[1] for words in started} <= set(SPECS)


# -- what systemd makes of it ---------------------------------------------------------------------------------------


@needs_analyze
def test_systemd_has_nothing_to_say_about_them(root: Path) -> None:
    done = install_units(str(root))

    assert done.verified
    assert done.problems == ()


@needs_analyze
def test_a_command_that_is_not_in_the_image_is_told(root: Path) -> None:
    (root / "usr/bin/abboot").unlink()

    told = said("install-units", "--root", root)

    assert (told["ok"], told["verified"]) == (True, True)
    assert any("/usr/bin/abboot is not executable" in problem for problem in told["problems"])
    assert "abboot is not executable" in abboot("install-units", "--root", root).out


CHECK = """\
[Unit]
Before=boot-complete.target
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh
[Install]
RequiredBy=boot-complete.target
"""


@needs_analyze
def test_a_check_after_multi_user_target_makes_no_cycle(root: Path) -> None:
    """H-38: the published failure.  The check is ordered behind the target that wants the unit behind the check."""
    write_unit(root, "my-check.service", CHECK)
    enable(root, "my-check.service", "boot-complete.target.requires")

    assert said("install-units", "--root", root)["problems"] == []


@needs_analyze
def test_the_same_check_makes_a_cycle_with_a_unit_that_multi_user_target_waits_for(root: Path) -> None:
    """The judge can say no: with the default dependencies it would be the cycle that nobody sees."""
    write_unit(root, "my-check.service", CHECK)
    enable(root, "my-check.service", "boot-complete.target.requires")
    install_units(str(root), verify=False)
    ours = root / UNITS / "abboot-confirm.service"
    ours.write_text(ours.read_text().replace("DefaultDependencies=no\n", ""))

    found = verify_units(str(root), SERVICES)

    assert found is not None
    assert any(is_cycle(problem) for problem in found)


@needs_analyze
def test_a_cycle_of_somebody_elses_making_is_an_error(root: Path) -> None:
    """The user's check waits for what waits for it."""
    write_unit(root, "my-check.service", CHECK.replace("multi-user.target", "abboot-confirm.service"))
    enable(root, "my-check.service", "boot-complete.target.requires")

    told = said("install-units", "--root", root, code=1)
    ran = abboot("install-units", "--root", root)

    assert told["ok"] is False
    assert any(is_cycle(problem) for problem in told["problems"])
    assert ran.code == 1
    assert "systemd will drop a unit" in ran.out


@needs_analyze
def test_the_deadline_is_part_of_the_earliest_boot_and_waits_for_nothing(root: Path) -> None:
    install_units(str(root), verify=False)
    where = [f"--root={root}", "--man=no", "--generators=no"]
    text = (root / UNITS / "abboot-deadline.timer").read_text()

    subprocess.run(["systemd-analyze", "verify", *where, "abboot-deadline.timer"], check=True)
    assert "DefaultDependencies=no" in text
    assert "IgnoreOnIsolate=yes" in text
    assert [line for line in text.splitlines() if line.startswith(("After=", "Requires=", "Wants=", "BindsTo="))] == []


# -- the last resort ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "reboots"),
    [(b"\0\0\0\1", True), (b"\0\0\0\0", False), (b"", False), (b"\1", False), (b"\0\0\0\1\0", False), (b"1", False)],
)
def test_the_last_resort_reboots_only_a_boot_that_the_flag_began(tmp_path: Path, cell: bytes, *, reboots: bool) -> None:
    """G7: the shell line of the unit itself, on a device tree of ours."""
    (tmp_path / "tryboot").write_bytes(cell)
    text = next(file.text for file in unit_files() if file.unit == "abboot-last-resort.service")
    (line,) = [line for line in text.splitlines() if line.startswith("ExecCondition=") and "tryboot" in line]
    script = line.removeprefix("ExecCondition=/bin/sh -c '").removesuffix("'").replace("$$", "$")
    script = script.replace("/proc/device-tree/chosen/bootloader", str(tmp_path)).replace("\\n", "\n")

    ran = subprocess.run(["sh", "-c", script], check=False, capture_output=True)

    assert (ran.returncode == 0) is reboots
