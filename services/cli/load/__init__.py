"""`caracal bench serve`: loads an OpenAI-compatible endpoint and reports as `vllm bench serve` does."""
