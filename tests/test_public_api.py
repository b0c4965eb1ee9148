"""The public names: what somebody imports must be there, and `import abboot` must cost nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import abboot

HEAVY = ("pyfatfs", "parted", "structlog", "abboot.manager", "abboot.fat", "argparse")


@pytest.mark.parametrize("name", abboot.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(abboot, name) is not None


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        abboot.nonsense  # noqa: B018


def test_importing_abboot_loads_nothing_heavy() -> None:
    script = f"import sys, abboot; print([name for name in {HEAVY!r} if name in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"
