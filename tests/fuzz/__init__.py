"""Bad bytes for every parser: targets with an oracle each, kept corpora, and a guided search for what breaks them.

    make fuzz SECONDS=60                 # each target for so long, guided by coverage (atheris); finds are kept
    make fuzz SECONDS=600 TARGET=value   # one of them

The corpora are replayed, and mutated by hypothesis, in every test run (``tests/unit/test_fuzz.py``).
"""
