"""Pure: whether the peers answer, and how large a packet the path to them carries."""
