"""Shell: the daemon's log: set-up, what may stand in a line, the rate limit, the last events."""
