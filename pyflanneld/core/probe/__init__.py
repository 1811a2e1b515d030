"""Pure: whether the peers answer, and how large a packet may be on the way to them."""
