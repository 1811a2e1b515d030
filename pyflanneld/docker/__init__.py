"""Tool: ``pyflanneld docker-opts``."""
