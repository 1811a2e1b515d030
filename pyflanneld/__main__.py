"""``python -m pyflanneld``."""

import sys

from pyflanneld.cli import main

if __name__ == "__main__":
    sys.exit(main())
