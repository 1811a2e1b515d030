"""Shell: etcd's v2 API over HTTP."""
