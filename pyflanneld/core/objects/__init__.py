"""Pure: kernel objects as they are wanted and present, and the difference between the two."""
