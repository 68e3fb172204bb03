"""The first pods of a release on Kubernetes, whose manifests leave the number of pods to whoever scales."""
