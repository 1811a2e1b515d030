"""Pure: wanted routes, present routes, and the difference between them."""
