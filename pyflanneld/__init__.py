"""pyflanneld: flanneld's work for Docker hosts, with etcd and host-gw, in asyncio Python."""

__version__ = "0.1.0"
