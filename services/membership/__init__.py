"""Who is alive and what the leader decided, as hints in Redis."""
