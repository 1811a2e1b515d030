"""Edge: the daemon's flags and variables, and the settings that come of them. Nothing is contacted from here."""
