"""Tool: ``pyflanneld doctor``: a collector reads facts, and pure checks turn them into findings."""
