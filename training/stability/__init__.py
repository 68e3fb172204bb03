"""What keeps a run in its bounds: the controller of FFN experts per token."""
