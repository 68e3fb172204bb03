"""Tests of a release on a real Kubernetes cluster, run by `make e2e-k8s`."""
