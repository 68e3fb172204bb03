"""Worker leases and the leader's decisions, as hints in Redis."""
