"""The words of the corpus and of its tasks, and how questions are put."""
