"""Pure: what the daemon says about itself."""
