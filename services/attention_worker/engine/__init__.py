"""One thread that turns waiting requests into tokens: scheduler, pages, sampler."""
