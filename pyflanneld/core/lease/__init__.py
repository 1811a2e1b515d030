"""Pure: one subnet lease: its bytes, which one to take, whose it is, and the files that describe it."""
