"""FAT12, FAT16 and FAT32 volumes: geometry, planning, writing, reading.

The planner (:mod:`abboot.fat.plan`) decides every byte of a volume before the first one is written; the writer
(:mod:`abboot.fat.write`) puts only what differs on the medium, boot sector last (G2); the reader
(:mod:`abboot.fat.read`) is an independent second implementation, so that what was written is checked by other code.
"""
