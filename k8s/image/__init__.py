"""Builds the container image without a container engine: Debian packages, pip, and an OCI archive written by hand."""
