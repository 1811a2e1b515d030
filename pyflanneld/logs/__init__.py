"""Shell: the daemon's log: set-up, sanitising, rate limit, and the last events."""
