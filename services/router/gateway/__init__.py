"""HTTP and gRPC: what a client sends is checked here, and what it gets is written here."""
