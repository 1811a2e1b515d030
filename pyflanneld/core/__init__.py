"""Pure: values and decisions. No await, clock, randomness, logging, environment or file access in here."""
