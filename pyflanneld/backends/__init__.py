"""Pure: one small file per backend, a function from peers to the kernel objects that they need."""

from pyflanneld.backends import host_gw

SUPPORTED = (host_gw.NAME,)
