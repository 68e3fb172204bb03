"""What makes a run reproducible: its folder, from which it resumes with the same bits wherever it was killed."""
