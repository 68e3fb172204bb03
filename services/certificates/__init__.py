"""The certificates of a cluster in Kubernetes: makes and renews them, as Secrets (`python -m services.certificates`)."""
