"""What the model learns when: the stages of data, their mixtures, and the search that chose these."""
