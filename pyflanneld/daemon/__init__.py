"""Shell: one daemon: its process, its wiring, one run from start to stop, and what is served beside it."""
