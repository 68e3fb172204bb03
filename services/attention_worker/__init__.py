"""The attention worker: everything of the model but the FFN experts."""
