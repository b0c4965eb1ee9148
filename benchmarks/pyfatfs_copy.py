"""Copy a folder into a FAT volume through pyfatfs' own file system: ``pyfatfs_copy.py VOLUME FOLDER``.

For ``updates.py``, which runs it in a virtual environment of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyfatfs.PyFatFS import PyFatFS

if __name__ == "__main__":
    volume, folder = sys.argv[1], Path(sys.argv[2])
    with PyFatFS(volume) as filesystem:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                filesystem.makedir(name)
            else:
                filesystem.writebytes(name, path.read_bytes())
