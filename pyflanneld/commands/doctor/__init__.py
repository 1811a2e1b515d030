"""Tool: ``pyflanneld doctor``: a collector gathers facts, and pure checks turn them into findings."""
