"""Pure: flannel's firewall rules, and the languages of the programs that place them."""
