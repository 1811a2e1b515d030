"""Shell: etcd's v3 API over gRPC."""
