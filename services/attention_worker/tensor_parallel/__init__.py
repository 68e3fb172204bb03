"""Ranks that share one attention worker; they gather and never add."""
