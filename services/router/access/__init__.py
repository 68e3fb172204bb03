"""Who may use a router, and how much: API keys and their quotas."""
