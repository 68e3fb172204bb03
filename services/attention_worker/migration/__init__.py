"""KV migration: the pages of a sequence go from the worker that has computed them to the one that continues it."""
