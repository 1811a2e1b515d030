"""Pure: the backends, one small file each."""

from pyflanneld.backends.alloc import Alloc
from pyflanneld.backends.backend import Backend, Host, Peers
from pyflanneld.backends.host_gw import HostGw
from pyflanneld.backends.vxlan import Vxlan

__all__ = ["BACKENDS", "Backend", "Host", "Peers"]

BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (HostGw(), Vxlan(), Alloc())}
"""Every backend by its name, each with the options that it has by default."""
