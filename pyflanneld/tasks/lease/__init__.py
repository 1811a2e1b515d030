"""Shell: the tasks that keep this host's lease."""
