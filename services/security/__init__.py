"""The cluster key, and what is signed with it: calls between the cluster's processes, and records in Redis."""
