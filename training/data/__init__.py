"""What the model learns from: dialogues, their text, their tokens, batches."""
