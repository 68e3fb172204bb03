"""The same commands for a release on Kubernetes."""
