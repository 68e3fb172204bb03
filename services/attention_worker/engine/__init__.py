"""The engine: scheduler, page pool, model step and sampler, run by one thread."""
