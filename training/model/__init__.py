"""The model in PyTorch, for training: attention, experts, and the whole."""
