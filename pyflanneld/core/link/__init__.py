"""Pure: links, and the one that carries the routes."""
