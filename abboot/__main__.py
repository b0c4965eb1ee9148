"""``python -m abboot``."""

import sys

from abboot.cli import main

sys.exit(main())
