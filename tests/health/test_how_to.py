"""What docs/how-to/health-checks.md shows, done: its configuration read, its service run, its plug-in installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import abboot
from abboot.config_file import parse_config
from tests.cards import CONFIG, new_pi, tree

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "health-checks.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def block(language: str, begins: str) -> str:
    (found,) = [text for word, text in BLOCKS if word == language and text.startswith(begins)]
    return found


def test_the_configuration_of_the_page_is_one() -> None:
    health = parse_config(block("toml", "[health]")).health

    assert [check.kind for check in health.checks] == ["no_failed_units", "default_route", "http", "command", "tcp"]
    assert [check.retries for check in health.checks] == [0, 0, 2, 0, 0]
    assert (health.stable_for_s, health.deadline_s, health.checks[-1].required) == (30, 300, False)


def test_the_service_of_the_page_ends_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its verdict on this machine is that of this machine; where it ends up is what its last lines do with it."""
    source = block("python", "import abboot\n\nreport")
    shorter = source.replace("stable_for=30", "stable_for=0").replace("deadline=300", "deadline=0.5")
    watching, ending = shorter.split("with abboot.BootManager.from_system() as manager:\n")
    pi = new_pi(config=CONFIG)
    pi.manager().stage(tree("v2"))
    pi.manager().trial()
    names: dict[str, object] = {"manager": pi.manager()}

    exec(watching, names)
    exec(ending.strip(), names)

    report = names["report"]
    assert isinstance(report, abboot.health.HealthReport)
    assert [check.name for check in report.checks] == ["app", "ssh", "settled"]
    assert pi.manager().status().primary is (abboot.Slot.B if report.healthy else abboot.Slot.A)
    assert pi.manager().status().booted is (abboot.Slot.B if report.healthy else abboot.Slot.A)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The plug-in of the page, as a wheel, installed by pip into a folder."""
    project = tomllib.loads(block("toml", "# pyproject.toml"))["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    groups = {
        group: "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in project["entry-points"].items()
    }
    files = {
        "abboot_check_load.py": block("python", "# abboot_check_load.py"),
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        ),
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": "".join(f"[{group}]\n{text}" for group, text in groups.items()),
    }
    files[f"{stem}.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{stem}.dist-info/RECORD"])
    wheel = tmp_path / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, timeout=60)
    return target


def test_the_plug_in_of_the_page_is_installed_configured_and_run(installed: Path, tmp_path: Path) -> None:
    config = tmp_path / "abboot.toml"
    config.write_text(
        block("toml", '[[health.checks]]\nkind = "load"')
        + '\n[[health.checks]]\nkind = "load"\nname = "idle"\nbelow = -1\nretries = 1\nrequired = false\n'
    )
    script = (
        "import json, abboot\n"
        f"config = abboot.load_config({str(config)!r})\n"
        "checks = abboot.health.build_checks(config.health.checks)\n"
        "print(json.dumps([[c.name, c.required, c.retries, c.below, c.run().ok, c.run().detail] for c in checks]))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": f"{installed}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.stderr == ""
    load, idle = json.loads(done.stdout)
    assert load[:4] == ["load", True, 0, 2.5]
    assert idle[:5] == ["idle", False, 1, -1, False]
    assert "below -1 is wanted" in idle[5]
