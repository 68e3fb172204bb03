"""A Hugging Face model directory: its config, its tensors and its numerics class."""
