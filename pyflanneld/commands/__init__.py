"""Tool: the sub-commands for operators, beside the daemon: each ``main`` takes the words after its name."""
