"""The import rules, enforced on the sources: a pure core, edges that do not know each other, lazy libraries.

The rules are tables.  Each test walks the syntax trees of abboot/, so that it also sees imports inside functions.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "abboot").rglob("*.py"))
}
Look = Callable[[str, ast.AST], Iterator[tuple[str, int]]]
TREES = {module: ast.parse(path.read_text("utf-8"), str(path)) for module, path in SOURCES.items()}

# What `abboot.core` may import besides its own modules and abboot.errors: nothing here reaches the outside world.
PURE = set(
    """
    __future__ array attrs base64 binascii bisect collections copy contextlib dataclasses datetime difflib enum
    functools hashlib heapq itertools json math operator posixpath re string struct textwrap tomllib types typing
    unicodedata zlib
    """.split()  # noqa: SIM905
)
# ... and what these would still let in: files, clocks, chance.
IMPURE = {"open", "input", "print", "exec", "eval", "__import__", "breakpoint"}
IMPURE_CALLS = ("datetime.now", "datetime.utcnow", "datetime.today", "date.today")
# What a part may import of abboot besides itself.
MAY_IMPORT = {
    "abboot.core": {"abboot.errors"},
    "abboot.fat": {"abboot.core", "abboot.errors"},
    "abboot.linux": {"abboot.core", "abboot.errors", "abboot.log"},
    "abboot.health": {"abboot.core", "abboot.errors", "abboot.log"},
    # The firmware's own reader judges what abboot.fat wrote, so it shares nothing with it.
    "abboot.simulator.firmware_fat": {"abboot.errors"},
}
# Third-party libraries that live in one module each.
ONLY_IN = {
    "parted": "abboot.disk",
    "_ped": "abboot.disk",
    "pyfatfs": "abboot.fat.read",
    "yaml": "abboot.forklift.yaml3",
}
# What only the command line does: print, exit, read the environment, configure logging.
CLI_ONLY = {
    "print", "input", "exit", "quit", "sys.exit", "os._exit", "sys.stdout", "sys.stderr",
    "os.environ", "os.environb", "os.getenv", "logging.basicConfig", "structlog.configure",
}  # fmt: skip
COMMAND_LINE = ("abboot/cli/", "abboot/__main__.py")
# What `import abboot` must not load; what nothing may ever load (pkg_resources is gone from the newest setuptools).
LAZY = {"parted", "_ped", "pyfatfs", "yaml"}
NEVER = {"fs", "pkg_resources", "setuptools"}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def resolve(module: str, node: ast.ImportFrom) -> str:
    """The absolute name of what ``from ... import`` imports from."""
    if node.level == 0:
        return node.module or ""
    is_package = SOURCES[module].name == "__init__.py"
    parents = module.split(".")[: len(module.split(".")) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def imports_of(module: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module that is imported anywhere in ``tree``, with its line; ``from a import b`` counts as ``a.b`` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = resolve(module, node)
            for alias in node.names:
                # `from pyfatfs import PyFatFS` imports a module too, and its package first.
                name = f"{base}.{alias.name}"
                yield (base if base in SOURCES and name not in SOURCES else name), node.lineno


def dotted(node: ast.expr) -> str | None:
    """``os.path.join`` of the expression that spells it."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            head = dotted(value)
            return f"{head}.{attribute}" if head else None
        case _:
            return None


def names_used(module: str, tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that is read in ``tree``, dotted ones whole, with its line, and ``from os import environ`` as used."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = dotted(node)
            if name:
                yield name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def offences(package: str, look: Look, offends: Callable[[str], bool]) -> list[str]:
    """Where a module of ``package`` imports or uses what ``offends``, as file:line: name."""
    return [
        f"{SOURCES[module].relative_to(ROOT)}:{line}: {name}"
        for module, tree in TREES.items()
        if within(module, package)
        for name, line in look(module, tree)
        if offends(name)
    ]


def test_the_rules_see_imports_inside_functions_and_names_behind_aliases() -> None:
    tree = ast.parse("def f():\n    import parted.disk\n    from os import environ\n    return sys.exit(environ)\n")

    assert list(imports_of("abboot.core.plan", tree)) == [("parted.disk", 2), ("os.environ", 3)]
    assert {"os.environ", "sys.exit"} <= {name for name, _ in names_used("abboot.core.plan", tree)}


def test_a_relative_import_is_seen_with_its_full_name() -> None:
    tree = ast.parse("from ..fat import geometry\nfrom . import words\n")

    assert [name for name, _ in imports_of("abboot.core.plan", tree)] == ["abboot.fat.geometry", "abboot.core.words"]


def test_the_core_imports_nothing_that_reaches_the_outside_world() -> None:
    assert offences("abboot.core", imports_of, lambda name: name.split(".")[0] not in PURE | {"abboot"}) == []


def test_the_core_opens_no_file_and_asks_no_clock() -> None:
    found = offences("abboot.core", names_used, lambda name: name in IMPURE or name.endswith(IMPURE_CALLS))

    assert found == []


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_it_stands_on(part: str) -> None:
    allowed = {part} | MAY_IMPORT[part]

    def offends(name: str) -> bool:
        return within(name, "abboot") and not any(within(name, package) for package in allowed)

    assert offences(part, imports_of, offends) == []


def test_nothing_imports_the_command_line() -> None:
    found = offences("abboot", imports_of, lambda name: within(name, "abboot.cli"))

    assert [place for place in found if not place.startswith(COMMAND_LINE)] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_with_a_wrapper_is_imported_by_the_wrapper_alone(library: str) -> None:
    home = str(SOURCES[ONLY_IN[library]].relative_to(ROOT)) + ":"
    found = offences("abboot", imports_of, lambda name: within(name, library))

    assert [place for place in found if not place.startswith(home)] == []


def test_nothing_imports_what_new_versions_of_setuptools_lack() -> None:
    forbidden = NEVER | {"pyfatfs.PyFatFS", "pyfatfs.FatIO"}  # these two import fs, which imports pkg_resources

    assert offences("abboot", imports_of, lambda name: any(within(name, other) for other in forbidden)) == []


def test_only_the_command_line_prints_exits_reads_the_environment_or_configures_logging() -> None:
    found = offences("abboot", names_used, CLI_ONLY.__contains__)

    assert [place for place in found if not place.startswith(COMMAND_LINE)] == []


def test_importing_abboot_loads_neither_parted_nor_pyfatfs_nor_yaml() -> None:
    code = "import sys, abboot; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())

    assert "abboot" in loaded
    assert loaded & (LAZY | NEVER) == set()
