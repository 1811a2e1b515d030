"""Shell: the small edges to the operating system: files, locks, processes, certificates, rights."""
