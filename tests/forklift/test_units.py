"""The units for Forklift, in an image that has Forklift's own as today's OS images do, judged by systemd itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from abboot.cli import forklift, forklift_events
from abboot.cli.parser import parse
from abboot.forklift.events import RESULTS
from abboot.units import install_units, is_cycle, unit_files, verify_units
from tests.cli.command import said

UNITS = "etc/systemd/system"
SERVICES = sorted(file.unit for file in unit_files("forklift") if file.unit)
needs_analyze = pytest.mark.needs("systemd-analyze")
needs_systemctl = pytest.mark.needs("systemctl")

_OVERLAY = """\
[Unit]
DefaultDependencies=no
After=-.mount systemd-remount-fs.service
Before={before}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh
[Install]
WantedBy=local-fs.target
"""
#: As in the OS images that Forklift's users run: the overlays, the bind mount, and the unit that applies.
FORKLIFTS = {
    "overlay-usr.service": _OVERLAY.format(before="overlay-fs.target"),
    "overlay-etc.service": _OVERLAY.format(before="overlay-fs.target"),
    "bindro-run-forklift-stages-current.service": _OVERLAY.format(before="local-fs.target"),
    "overlay-fs.target": "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\n",
    "docker.service": "[Service]\nExecStart=/bin/sh\n",
    "forklift-apply.service": """\
[Unit]
Requires=docker.service
After=docker.service
[Service]
Type=oneshot
Environment=FORKLIFT_STAGE_STORE=/var/lib/forklift/stages
ExecStart=/bin/sh
[Install]
WantedBy=multi-user.target
""",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of such an image, with the units of this machine's systemd, and something in place of each program."""
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/bin").mkdir()
    (root / UNITS).mkdir(parents=True)
    units = Path("/usr/lib/systemd/system")
    if units.is_dir():
        shutil.copytree(units, root / "usr/lib/systemd/system", symlinks=True)
    for name in ("abboot", "sh", "rm", "systemctl", "true"):
        program = root / "usr/bin" / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("usr/lib")
    for name, text in FORKLIFTS.items():
        (root / UNITS / name).write_text(text)
        if "WantedBy=" in text:
            folder = root / UNITS / f"{text.split('WantedBy=')[1].strip()}.wants"
            folder.mkdir(exist_ok=True)
            (folder / name).symlink_to(f"/{UNITS}/{name}")
    return root


def links_of(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path)
        for path in (root / UNITS).rglob("*abboot-forklift*")
        if path.is_symlink()
    }


@needs_analyze
def test_systemd_has_nothing_to_say_about_them_beside_forklifts_own(root: Path) -> None:
    told = said("install-units", "--root", root, "--with", "forklift")

    assert (told["ok"], told["verified"], told["problems"]) == (True, True, [])
    assert told["sets"] == ["device", "forklift"]
    # The drop-ins too: they are judged with the units that they belong to.
    assert verify_units(str(root), ["forklift-apply.service", "abboot-confirm.service"]) == ()


@needs_analyze
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("abboot-forklift-reconcile.service", "After=local-fs.target"),
        ("forklift-apply.service.d/50-abboot.conf", "[Unit]\nAfter=abboot-confirm.service"),
    ],
)
def test_the_judge_can_say_no(root: Path, name: str, line: str) -> None:
    """One order the wrong way round, and there is a cycle."""
    install_units(str(root), sets=("device", "forklift"), verify=False)
    path = root / UNITS / name
    path.write_text(path.read_text().replace("\n[Service]", f"\n{line}\n[Service]"))

    found = verify_units(str(root), SERVICES)

    assert found is not None
    assert any(is_cycle(problem) for problem in found)


@needs_analyze
def test_a_line_that_systemd_does_not_know_in_a_drop_in_is_seen(root: Path) -> None:
    install_units(str(root), sets=("device", "forklift"), verify=False)
    path = root / UNITS / "forklift-apply.service.d/50-abboot.conf"
    path.write_text(path.read_text().replace("ExecStopPost=", "ExecStopAfter="))

    assert verify_units(str(root), ["forklift-apply.service"]) != ()


@needs_systemctl
def test_they_are_enabled_as_systemctl_would(root: Path) -> None:
    install_units(str(root), sets=("forklift",), verify=False)
    ours = links_of(root)
    for path in ours:
        (root / path).unlink()

    enabled = [name for name in SERVICES if name != "abboot-forklift-store.service"]
    subprocess.run(["systemctl", f"--root={root}", "enable", *enabled], check=True, capture_output=True)

    assert links_of(root) == ours
    assert sorted(ours) == [
        f"{UNITS}/local-fs.target.wants/abboot-forklift-reconcile.service",
        f"{UNITS}/multi-user.target.wants/abboot-forklift-arm.service",
        f"{UNITS}/paths.target.wants/abboot-forklift-store.path",
    ]


def test_without_being_asked_for_they_are_not_installed(root: Path) -> None:
    install_units(str(root), verify=False)

    assert links_of(root) == {}
    assert not list((root / UNITS).rglob("50-forklift.conf"))


def test_every_command_of_theirs_is_one_that_the_parser_takes() -> None:
    commands = [
        line.split("=", 1)[1].lstrip("-").replace("${SERVICE_RESULT}", "exit-code").split()[1:]
        for file in unit_files("forklift")
        for line in file.text.splitlines()
        if re.match(r"Exec\w+=-?/usr/bin/abboot ", line)
    ]

    assert sorted(words[1] for words in commands) == ["apply-result", "arm-on-reboot", "reconcile", "store-changed"]
    for words in commands:
        assert parse(words).action in {**forklift.ACTIONS, **forklift_events.ACTIONS}


def test_early_boot_comes_before_whatever_is_mounted_from_the_store() -> None:
    text = next(file.text for file in unit_files("forklift") if file.unit == "abboot-forklift-reconcile.service")
    before = " ".join(re.findall(r"^Before=(.*)$", text, re.MULTILINE)).split()

    assert {"overlay-usr.service", "overlay-etc.service", "bindro-run-forklift-stages-current.service"} <= set(before)
    assert not re.search(r"^(Requires|BindsTo|Requisite)=", text, re.MULTILINE)


def test_what_systemd_calls_a_success_is_one_and_what_a_shutdown_does_is_no_failure() -> None:
    """systemd.exec(5), "$SERVICE_RESULT": the words; all that is not here counts as a failure."""
    assert RESULTS == {"success": True, "signal": None, "exec-condition": None}
