"""A simulated world: whole daemons on a virtual clock, on an etcd and on kernels that behave as badly as they may.

    python -m tests.sim --seeds 200          # each seed is one world; two runs of one seed are alike
    python -m tests.sim --seed 17 --timeline # what happened in one of them
"""
