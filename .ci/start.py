"""Start pyflanneld with the packages beside this file and the standard library, and nothing else."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

if __name__ == "__main__":
    lib = Path(__file__).resolve().parent
    # Behind the standard library, so that no package can ever stand in for a part of it.
    sys.path += [str(lib / EXTENSION_SUFFIXES[0][1:-3]), str(lib / "shared")]
    from pyflanneld.cli import main

    sys.exit(main())
