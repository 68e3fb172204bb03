"""What the control plane costs with many workers: the router, Redis, and what travels when a table changes."""
