"""Build the Debian package of abboot: ``make deb``.

dpkg-deb packs what is laid out here; no debhelper, so that any Debian with dpkg can build it, for every architecture.
What Debian has is a dependency.  What it lacks travels inside: the modules of pyfatfs that abboot imports, found by
importing them, in ``abboot/_vendor``, where only :mod:`abboot.fat.read` looks.  The same sources give the same bytes.

Sources: Debian Policy 4.7; deb-control(5); dpkg-deb(1); the maintainer scripts do what dh_python3 and
dh_installsystemd would put there.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
from email.utils import formatdate
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abboot.cli.parser import DEFAULT_CONFIG
from abboot.units import SYSTEMD, unit_files

sys.path.insert(0, str(Path(__file__).resolve().parent))
from man_page import man_page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent
TEXTS = Path(__file__).resolve().parent / "debian"
PACKAGE = "usr/lib/python3/dist-packages/abboot"
DOC = "usr/share/doc/abboot"
#: What Debian calls the packages that pyproject.toml asks for; what it lacks is None, and travels inside.
DEBIAN_NAMES = {"attrs": "python3-attr", "structlog": "python3-structlog", "PyYAML": "python3-yaml", "pyfatfs": None}
#: Who answers for a package that somebody built: as with Debian's own tools, DEBFULLNAME and DEBEMAIL say it.
MAINTAINER = ("abboot maintainers", "maintainers@abboot.invalid")


def vendored() -> Iterator[tuple[str, bytes]]:
    """The modules of pyfatfs that abboot imports, by their path below ``_vendor``."""
    code = (
        "import sys, abboot.fat.read; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('pyfatfs')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for file in sorted(done.stdout.split()):
        yield f"pyfatfs/{Path(file).name}", Path(file).read_bytes()


def files(version: str, date: float) -> Iterator[tuple[str, bytes]]:
    """Everything in the package but its control files, by path."""
    for path in sorted((ROOT / "abboot").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield f"{PACKAGE}/{path.relative_to(ROOT / 'abboot').as_posix()}", path.read_bytes()
    for name, data in vendored():
        yield f"{PACKAGE}/_vendor/{name}", data
    yield f"{PACKAGE}-{version}.dist-info/METADATA", metadata()
    yield f"{PACKAGE}-{version}.dist-info/INSTALLER", b"debian\n"
    yield "usr/bin/abboot", (TEXTS / "abboot").read_bytes()
    for unit in unit_files("device"):
        yield f"usr/lib/systemd/{unit.path.removeprefix(f'{SYSTEMD}/')}", unit.text.encode()
    yield DEFAULT_CONFIG.lstrip("/"), (ROOT / "abboot" / "data" / "abboot.toml").read_bytes()
    yield "usr/share/man/man1/abboot.1.gz", packed(man_page(date).encode())
    yield f"{DOC}/copyright", text("copyright", MIT=mit_licence()).encode()
    yield f"{DOC}/changelog.gz", packed(changelog(version, date).encode())
    yield f"{DOC}/CHANGELOG.md.gz", packed((ROOT / "CHANGELOG.md").read_bytes())


def control_files(version: str, content: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """What dpkg itself reads, by name."""
    units = " ".join(unit.unit for unit in unit_files("device") if unit.links())
    size = sum(len(data) + 1023 >> 10 for data in content.values())
    fields = {"VERSION": version, "MAINTAINER": maintainer(), "SIZE": str(size), "DEPENDS": ", ".join(depends())}
    yield "control", text("control", **fields).encode()
    yield "conffiles", b"".join(f"/{path}\n".encode() for path in content if path.startswith("etc/"))
    sums = (f"{hashlib.md5(data).hexdigest()}  {path}\n" for path, data in content.items() if path[:4] != "etc/")
    yield "md5sums", "".join(sums).encode()
    for name in ("postinst", "prerm", "postrm"):
        yield name, text(name, UNITS=units).encode()


def text(name: str, **words: str) -> str:
    """A file of tools/debian with its ``@WORDS@`` filled in."""
    found = (TEXTS / name).read_text("utf-8")
    for word, value in words.items():
        found = found.replace(f"@{word}@", value)
    return found


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return found


def requirements() -> Iterator[tuple[str, str]]:
    """Name and least version of what pyproject.toml asks for."""
    for each in project()["dependencies"]:
        name, _at_least, version = each.split(",")[0].partition(">=")
        yield name, version


def depends() -> Iterator[str]:
    yield f"python3 (>= {project()['requires-python'].removeprefix('>=')})"
    for name, version in requirements():
        if (package := DEBIAN_NAMES[name]) is not None:
            yield f"{package} (>= {version})"


def metadata() -> bytes:
    """What pip and plug-ins ask; pyfatfs is no requirement, since it is inside."""
    about = project()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {about['name']}",
        f"Version: {about['version']}",
        f"Summary: {about['description']}",
        f"Requires-Python: {about['requires-python']}",
        *(f"Requires-Dist: {name}>={version}" for name, version in requirements() if DEBIAN_NAMES[name]),
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def mit_licence() -> str:
    """The licence of the pyfatfs that is packed, as the field of a copyright file."""
    (licence,) = [file for file in distribution("pyfatfs").files or () if file.name == "LICENSE"]
    lines = licence.read_text().strip().splitlines()
    return "\n".join(f" {line.rstrip() or '.'}" for line in lines)


def maintainer() -> str:
    name, address = MAINTAINER
    return f"{os.environ.get('DEBFULLNAME', name)} <{os.environ.get('DEBEMAIL', address)}>"


def changelog(version: str, date: float) -> str:
    about = f"abboot ({version}) unstable; urgency=medium\n\n  * What changed is in CHANGELOG.md.\n\n"
    return f"{about} -- {maintainer()}  {formatdate(date)}\n"


def source_date() -> float:
    """When the sources were made: SOURCE_DATE_EPOCH, or the last commit, or outside of git the changelog's time."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return float(os.environ["SOURCE_DATE_EPOCH"])
    found = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return float(found.stdout) if found.stdout.strip() else (ROOT / "CHANGELOG.md").stat().st_mtime


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)


def build(out: Path) -> Path:
    """The package, in the folder ``out``."""
    version, date = str(project()["version"]), source_date()
    content = dict(sorted(files(version, date)))
    target = out / f"abboot_{version}_all.deb"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        layout = Path(folder) / "package"
        for path, data in content.items():
            write(layout / path, data, 0o755 if path.startswith("usr/bin/") else 0o644)
        for name, data in control_files(version, content):
            write(layout / "DEBIAN" / name, data, 0o755 if data.startswith(b"#!") else 0o644)
        for path in [layout, *layout.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
            os.utime(path, (date, date))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", layout, target],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(int(date))},
        )
    return target


def write(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Debian package of abboot.")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist", help="the folder (default: dist)")
    print(build(parser.parse_args().output))


if __name__ == "__main__":
    main()
