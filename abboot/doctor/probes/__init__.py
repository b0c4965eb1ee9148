"""One function for each hazard that can be seen.  Importing this package registers them all."""

from abboot.doctor.probe import PROBES
from abboot.doctor.probes import disk, firmware, system

__all__ = ["PROBES", "disk", "firmware", "system"]
