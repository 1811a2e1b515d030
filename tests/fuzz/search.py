"""``python -m tests.fuzz.search TARGET PROGRAM [libFuzzer options] [folders]``: one search, and the end of the process.

PROGRAM is how to run the same again, with other options.
"""

import sys

import atheris

with atheris.instrument_imports(include=["pyflanneld"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup(sys.argv[2:], target)
    atheris.Fuzz()
