"""The web console at /console: the cluster live, a chat, and worker counts for whoever may change them."""
