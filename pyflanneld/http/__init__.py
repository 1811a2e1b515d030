"""Shell: what the daemon answers over HTTP. The only user of aiohttp."""
