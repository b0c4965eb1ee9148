"""abboot as a stranger installs it: ``pip install`` into a clean environment, no extras, on each Python there is.

The trap that these tests keep shut: pyfatfs depends on ``fs``, which imports ``pkg_resources``, which setuptools
removed in 82.0.0.  abboot uses only the parts of pyfatfs that need neither, so it works beside the newest setuptools.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import abboot

ROOT = Path(__file__).resolve().parent.parent.parent
WHEELHOUSE = ROOT / ".cache" / "wheelhouse"
PYTHONS = ("3.11", "3.12", "3.13")

pytestmark = [pytest.mark.packaging, pytest.mark.xdist_group("packaging")]


def run(*command: str | Path) -> str:
    # Neither this checkout nor this test's environment may leak into what is tested.
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd="/", env=outside, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def find_python(version: str) -> str | None:
    """A Python of this version that runs and makes virtual environments, or None."""
    name = f"python{version}"
    # A pyenv shim is found on the PATH but fails when its version is not the selected one: look behind it too.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for candidate in (shutil.which(name), *sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))):
        if candidate is None:
            continue
        tried = subprocess.run([candidate, "-c", "import venv"], capture_output=True, check=False)
        if tried.returncode == 0:
            return str(candidate)
    return None


@pytest.fixture(scope="session")
def wheelhouse() -> Path:
    """What the installations need, downloaded once per pyproject.toml: PyYAML for each Python, the others for all.

    After that the tests need no network.
    """
    stamp = WHEELHOUSE / "made-for"
    wanted = (ROOT / "pyproject.toml").read_text("utf-8")
    WHEELHOUSE.parent.mkdir(parents=True, exist_ok=True)
    with WHEELHOUSE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of this run may be at it
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            shutil.rmtree(WHEELHOUSE, ignore_errors=True)
            WHEELHOUSE.mkdir()
            pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
            # The build's own requirement, the newest setuptools, and abboot's dependencies through abboot itself.
            run(*pip, "wheel", "--wheel-dir", WHEELHOUSE, ROOT, "hatchling", "setuptools")
            for version in PYTHONS:
                binary = ("--only-binary", ":all:", "--no-deps", "--python-version", version)
                run(*pip, "download", *binary, "--dest", WHEELHOUSE, "PyYAML")
            for built in WHEELHOUSE.glob("abboot-*.whl"):
                built.unlink()
            stamp.write_text(wanted, "utf-8")
    return WHEELHOUSE


@pytest.fixture(scope="session")
def wheel(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-index", "--find-links", wheelhouse, "--wheel-dir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card image, built here: building one needs the extra that the clean environments do not have."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("config.txt", "cmdline.txt", "start4.elf", "fixup4.dat", "kernel8.img", "bcm2711-rpi-4-b.dtb"):
        (tree / name).write_text(f"{name}\n")
    out = tmp_path_factory.mktemp("card") / "card.img"
    abboot.image.build(abboot.image.load_spec(ROOT / "images" / "demo.toml"), out, tree=tree)
    return out


@pytest.fixture(scope="session", params=PYTHONS)
def clean(
    request: pytest.FixtureRequest, wheel: Path, wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bin folder of an environment that holds abboot, its dependencies and the newest setuptools, no more."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"python{request.param} is not installed")
    environment = tmp_path_factory.mktemp(f"python{request.param}-")
    # This environment's pip installs into the new one: unpacking another pip would take longer than all the rest.
    run(python, "-m", "venv", "--without-pip", environment)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", environment)
    run(*pip, "install", "--no-index", "--no-compile", "--find-links", wheelhouse, wheel, "setuptools")
    return environment / "bin"


def test_the_wheel_holds_the_package_its_types_and_its_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {"abboot/__init__.py", "abboot/py.typed"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"abboot"}


def test_the_command_explains_itself(clean: Path) -> None:
    assert "stage" in run(clean / "abboot", "--help")


def test_status_of_a_card_works_without_the_image_extra(clean: Path, card: Path) -> None:
    status = json.loads(run(clean / "abboot", "--disk", card, "--json", "status"))

    assert status["phase"] == "offline"
    assert status["primary"] == "a"


def test_status_loads_neither_fs_nor_pkg_resources_nor_parted(clean: Path, card: Path) -> None:
    code = (
        "import sys\n"
        "from abboot.cli import main\n"
        f"sys.argv = ['abboot', '--disk', {str(card)!r}, '--json', 'status']\n"
        "try:\n    status = main()\nexcept SystemExit as stop:\n    status = stop.code\n"
        "print(*sys.modules, file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([clean / "python", "-c", code], cwd="/", capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())

    assert "pyfatfs" in loaded, "the slots were not read: this test shows nothing"
    assert loaded & {"fs", "pkg_resources", "setuptools", "parted", "_ped"} == set()
