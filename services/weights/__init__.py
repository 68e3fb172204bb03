"""Weights of a hub, an object store or a web server, fetched into a folder: whole files, or blocks as they are read."""
