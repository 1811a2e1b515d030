"""``python -m tests.fuzz.search TARGET [libFuzzer's options] [folders]``: one search, in the process that it ends."""

import sys

import atheris

with atheris.instrument_imports(include=["pyflanneld"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
