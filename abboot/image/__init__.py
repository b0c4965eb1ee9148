"""Whole-disk images: build one from a specification, and look into one.  No root, no mount, no loop device.

Needs the extra ``abboot[image]`` (pyparted) to build; :func:`inspect` does not.
"""

from __future__ import annotations

from abboot.image.build import BuildReport, build
from abboot.image.inspect import Inspection, inspect
from abboot.image.spec import DiskSpec, ImageSpec, PartitionSpec, SelectorSpec, SlotsSpec, load_spec

__all__ = [
    "BuildReport",
    "DiskSpec",
    "ImageSpec",
    "Inspection",
    "PartitionSpec",
    "SelectorSpec",
    "SlotsSpec",
    "build",
    "inspect",
    "load_spec",
]
