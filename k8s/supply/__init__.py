"""What the images install from the Python index: locked with hashes, listed, looked up among known vulnerabilities."""
