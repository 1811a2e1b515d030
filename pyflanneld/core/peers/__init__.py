"""Pure: the other hosts' leases, validated."""
