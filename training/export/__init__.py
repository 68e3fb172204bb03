"""The checkpoint in the published layout: written, and read back."""
