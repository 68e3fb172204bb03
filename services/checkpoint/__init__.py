"""A Hugging Face model directory: its config, its tensors, and what class of bits they give."""
