"""Shell: the task that keeps the firewall rules."""
