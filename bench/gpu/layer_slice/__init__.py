"""Layers of real width as two processes: attention and experts."""
