"""Shell: the task that keeps the kernel's objects."""
