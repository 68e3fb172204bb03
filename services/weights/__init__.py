"""Weights of a model hub or an object store, fetched into a folder: whole files, or blocks of them as they are read."""
