"""A request's life: sequences, attempts at attention workers, failover, detokenizing, metrics."""
