"""The transformer without its experts. Knows no network."""
