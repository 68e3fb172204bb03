"""llama.cpp on the same work: a twin of our model in its own format, and a process that decodes it in batches."""
