"""Shell: etcd, over gRPC (v3) and HTTP (v2). The only user of grpclib."""
