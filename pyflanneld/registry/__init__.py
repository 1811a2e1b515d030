"""Shell: etcd. The only user of grpc and aetcd."""
