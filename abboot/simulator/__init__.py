"""A Raspberry Pi without a Raspberry Pi: a disk image, the firmware model, and power cuts.  Public, for your tests too.

    with abboot.simulator.SimulatedPi("card.img") as pi:
        pi.manager().stage("new-boot-tree")
        pi.manager().trial()                       # reboots the simulated Pi into the trial
        pi.power_cut()
        assert pi.manager().status().booted is abboot.Slot.A

Everything that abboot does to a card it does here to the image, through the same code; only the board is simulated: the
firmware by :mod:`abboot.core.firmware`, which the image is shown to through a reader of its own, and what is lost with
the power by :class:`SimulatedPi`.
"""

from __future__ import annotations

from abboot.core.firmware import Board, Boot, Eeprom, Model
from abboot.simulator.disk import PowerCut, SimulatedDisk, Write
from abboot.simulator.pi import SimulatedPi

__all__ = ["Board", "Boot", "Eeprom", "Model", "PowerCut", "SimulatedDisk", "SimulatedPi", "Write"]
