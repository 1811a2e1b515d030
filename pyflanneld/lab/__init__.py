"""Tool: a cluster on one machine, in network namespaces, for demonstrations, tests and learning."""
