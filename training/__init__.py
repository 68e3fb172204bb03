"""Trains the built-in model `models/caracal-tiny`: dialogues, tokenizer, model, bias controller, drafts, evaluation."""
