"""The transformer without its FFN experts; no module here uses the network."""
