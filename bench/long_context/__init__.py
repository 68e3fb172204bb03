"""Long prompts: what they cost running streams, and whether their answers are right."""
