"""Builds the container image without a container engine, from Debian packages and pip, as an OCI archive."""
