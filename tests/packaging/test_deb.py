"""The Debian package: what is in it, that it is made the same every time, and that it works on a Debian without pip."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from abboot.cli.parser import SPECS
from abboot.config_file import parse_config
from abboot.units import unit_files
from tests import cards

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "usr/lib/python3/dist-packages/abboot"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# What a Debian has beside Python itself; the rest of this environment must not be seen.
DEBIAN_HAS = ("attr", "attrs", "structlog", "yaml", "_yaml")

pytestmark = [pytest.mark.packaging, pytest.mark.needs("dpkg-deb"), pytest.mark.xdist_group("packaging")]


def run(*command: object, timeout: float = 300, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    text: str = done.stdout
    return text


def build(out: Path) -> Path:
    return Path(run(sys.executable, ROOT / "tools" / "build_deb.py", "-o", out).strip())


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def unpacked(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "--raw-extract", deb, folder)
    return folder


def field(deb: Path, name: str) -> str:
    return run("dpkg-deb", "--field", deb, name).strip()


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_same_sources_give_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    again = build(tmp_path)

    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(deb.read_bytes()).digest()


def test_it_holds_every_module_and_nothing_of_this_checkout_besides(unpacked: Path) -> None:
    sources = {f for f in files_in(ROOT / "abboot") if "__pycache__" not in f}
    packed = files_in(unpacked / PACKAGE)

    assert {name for name in packed if not name.startswith("_vendor/")} == sources
    assert {name.split("/")[1] for name in packed if name.startswith("_vendor/")} == {"pyfatfs"}
    elsewhere = {name for name in files_in(unpacked) if not name.startswith((PACKAGE, "DEBIAN/", "usr/lib/systemd/"))}
    assert elsewhere == {
        "etc/abboot.toml",
        "usr/bin/abboot",
        "usr/share/doc/abboot/CHANGELOG.md.gz",
        "usr/share/doc/abboot/changelog.gz",
        "usr/share/doc/abboot/copyright",
        "usr/share/man/man1/abboot.1.gz",
    }


def test_everything_belongs_to_root_and_nobody_else_may_write_it(deb: Path) -> None:
    for line in run("dpkg-deb", "--contents", deb).splitlines():
        mode, owner = line.split()[:2]
        assert owner == "root/root"
        assert mode in ("drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"), line
        assert (mode == "-rwxr-xr-x") == line.endswith("./usr/bin/abboot")


def test_it_depends_on_what_the_project_needs_and_carries_what_debian_lacks(deb: Path, unpacked: Path) -> None:
    depends = dict(each.rstrip(")").split(" (>= ") for each in field(deb, "Depends").split(", "))
    needed = dict(each.split(",")[0].split(">=") for each in PROJECT["dependencies"])

    assert depends["python3"] == PROJECT["requires-python"].removeprefix(">=")
    assert depends["python3-attr"] == needed["attrs"] == "22.2"
    assert depends["python3-structlog"] == needed["structlog"] == "22.3"
    assert len(depends) == len(needed)  # python3 more, pyfatfs less
    assert (field(deb, "Version"), field(deb, "Architecture")) == (PROJECT["version"], "all")
    vendored = files_in(unpacked / PACKAGE / "_vendor" / "pyfatfs")
    assert {"__init__.py", "_exceptions.py", "EightDotThree.py", "FATDirectoryEntry.py"} <= vendored
    assert not vendored & {"PyFatFS.py", "PyFatFSOpener.py"}  # they need `fs`, which nothing here has


def test_what_is_carried_keeps_its_licence(unpacked: Path) -> None:
    words = " ".join((unpacked / "usr/share/doc/abboot/copyright").read_text("utf-8").split())

    assert "Copyright (c) 2018-2024 pyfatfs contributors" in words
    assert "Permission is hereby granted, free of charge" in words
    assert "/usr/share/common-licenses/Apache-2.0" in words


def test_the_configuration_is_a_conffile_that_changes_nothing(unpacked: Path) -> None:
    assert (unpacked / "DEBIAN" / "conffiles").read_text() == "/etc/abboot.toml\n"
    assert parse_config((unpacked / "etc/abboot.toml").read_text("utf-8")) == parse_config("")


def test_the_units_are_those_of_install_units(unpacked: Path) -> None:
    units = {file.path.removeprefix("etc/systemd/"): file.text for file in unit_files("device")}

    found = unpacked / "usr/lib/systemd"
    assert {name: (found / name).read_text("utf-8") for name in files_in(found)} == units
    enabled = {file.unit for file in unit_files("device") if file.links()}
    assert enabled
    assert all(unit in (unpacked / "DEBIAN" / "postinst").read_text() for unit in enabled)


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_the_maintainer_scripts_are_shell_with_nothing_left_to_fill_in(unpacked: Path, name: str) -> None:
    script = unpacked / "DEBIAN" / name

    run("sh", "-n", script)
    assert "@" not in script.read_text()


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """The libraries that a Debian has, and nothing else."""
    folder = tmp_path / "debian"
    folder.mkdir()
    for name in DEBIAN_HAS:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            (folder / name).symlink_to(Path(spec.origin).parent)
    return folder


def python(unpacked: Path, beside: Path, *words: object) -> str:
    # -S: without the packages of this environment.
    outside = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    path = f"{unpacked / 'usr/lib/python3/dist-packages'}:{beside}"
    return run(
        sys.executable, "-S", *words, cwd="/", env={**outside, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    )


def test_it_reads_a_card_with_the_pyfatfs_that_it_carries(unpacked: Path, beside: Path) -> None:
    status = json.loads(
        python(unpacked, beside, unpacked / "usr/bin/abboot", "--disk", cards.card(), "--json", "status")
    )

    assert (status["phase"], status["slots"]["b"]["state"]) == ("offline", "good")
    where = python(unpacked, beside, "-c", "import abboot.fat.read, pyfatfs; print(pyfatfs.__file__)")
    assert where.strip() == str(unpacked / PACKAGE / "_vendor/pyfatfs/__init__.py")


def test_an_installed_pyfatfs_is_used_instead(unpacked: Path, beside: Path) -> None:
    spec = find_spec("pyfatfs")
    assert spec is not None
    assert spec.origin is not None
    (beside / "pyfatfs").symlink_to(Path(spec.origin).parent)

    where = python(unpacked, beside, "-c", "import abboot.fat.read, pyfatfs, sys; print(pyfatfs.__file__, *sys.path)")

    assert where.split()[0] == str(beside / "pyfatfs/__init__.py")
    assert "_vendor" not in where


def test_plug_ins_find_the_package_by_its_name(unpacked: Path, beside: Path) -> None:
    code = "import importlib.metadata as m; print(m.version('abboot'), *m.requires('abboot'))"
    version, *requires = python(unpacked, beside, "-c", code).split()

    assert version == PROJECT["version"]
    assert "attrs>=22.2" in requires
    assert not any(each.startswith("pyfatfs") for each in requires)


@pytest.mark.needs("man")
def test_the_manual_page_tells_of_every_verb_without_a_warning(unpacked: Path) -> None:
    page = unpacked / "usr/share/man/man1/abboot.1.gz"
    environment = {**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    done = subprocess.run(
        ["man", "--warnings", "-l", page], capture_output=True, text=True, check=True, timeout=60, env=environment
    )

    assert done.stderr == ""
    assert all(f"abboot {name}" in done.stdout for name in SPECS)
    assert "/etc/abboot.toml" in done.stdout


@pytest.mark.needs("lintian")
def test_lintian_finds_no_error(deb: Path) -> None:
    run("lintian", "--allow-root", "--fail-on", "error", deb)


# -- in whole systems: `make debtest` ---------------------------------------------------------------------------------

# What a device has; systemd-sysv is what makes default.target one of a system that boots.
DEVICE = "python3,python3-attr,python3-structlog,python3-yaml,systemd-sysv,init-system-helpers,man-db"
PROVE = """\
set -eu
cd /tmp
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
dpkg -i abboot_*_all.deb
abboot --version
abboot --sim card.img status
abboot --sim card.img --json selftest
ls /usr/lib/python3/dist-packages/abboot/__pycache__/manager.*.pyc
man -l /usr/share/man/man1/abboot.1.gz | head -n 4
systemctl is-enabled {enabled}
systemd-analyze verify --man=yes {units} default.target
systemctl disable {enabled}
dpkg -i abboot_*_all.deb
if systemctl is-enabled {enabled}; then exit 1; fi
dpkg -r abboot
test -e /etc/abboot.toml
dpkg -P abboot
test -z "$(find / -xdev -iname '*abboot*' -not -path '/tmp/*' -not -path '/proc/*' -not -path '/var/cache/man/*')"
echo PROVED
"""


@pytest.mark.debian
@pytest.mark.needs("mmdebstrap")
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_it_is_installed_used_and_purged_on_a_debian(suite: str, deb: Path, tmp_path: Path) -> None:
    """bookworm has the oldest libraries that abboot works with: attrs 22.2 and structlog 22.3."""
    units = [file.unit for file in unit_files("device") if file.unit]
    enabled = [file.unit for file in unit_files("device") if file.links()]
    (tmp_path / "prove.sh").write_text(PROVE.format(units=" ".join(units), enabled=" ".join(enabled)))
    shutil.copy(cards.card(), tmp_path / "card.img")
    shutil.copy(deb, tmp_path)
    said = tmp_path / "said"
    copied = " ".join(str(tmp_path / name) for name in ("prove.sh", "card.img", deb.name))

    run(
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={DEVICE}", "--format=null"),
        f"--customize-hook=copy-in {copied} /tmp",
        f'--customize-hook=chroot "$1" sh /tmp/prove.sh >{said} 2>&1 || {{ cat {said} >&2; exit 1; }}',
        *(suite, "/dev/null"),
        timeout=900,
    )

    text = said.read_text("utf-8")
    assert text.rstrip().endswith("PROVED")
    assert '"state": "passed"' in text
    assert "boots slot a, partition 2" in text
