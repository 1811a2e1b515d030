"""Beyond one machine: a model of a large cluster, a simulation of its crowds, and a check of both on a real etcd."""
