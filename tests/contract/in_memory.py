"""The kernels that are no kernels: the fake, and that of the simulated world, which must keep the same contract."""

from collections.abc import Callable, Mapping
from functools import partial
from random import Random

from tests.sim.kernel import SimKernel
from tests.support.fakes.kernel import FakeKernel

MakeKernel = Callable[..., FakeKernel]
KERNELS: Mapping[str, MakeKernel] = {"fake": FakeKernel, "sim": partial(SimKernel, rng=Random(1))}
