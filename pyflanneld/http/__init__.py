"""Shell: what the daemon answers over HTTP: health, operators' socket, metrics, page."""
