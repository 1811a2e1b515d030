"""Shell: what the tasks share: the node, open conditions, counters, and how one task wakes another."""
