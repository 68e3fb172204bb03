"""The certificates of a cluster in Kubernetes: made and renewed as Secrets (`python -m services.certificates`)."""
