"""Trains the built-in model `models/caracal-tiny`: dialogues, tokenizer, model, bias controller, export, evaluation."""
