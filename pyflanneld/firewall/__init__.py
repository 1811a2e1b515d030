"""Shell: the firewall programs of the host, iptables and nft."""
