"""Tests of a release on a real cluster, run by `make e2e-k8s`."""
