"""Pure: what is wrong with a host, its etcd and its peers, told from facts that somebody else has collected."""
