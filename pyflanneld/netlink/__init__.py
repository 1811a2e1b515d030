"""Shell: netlink. The only user of pyroute2."""
