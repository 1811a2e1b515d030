"""Pure: the network configuration that etcd holds."""
