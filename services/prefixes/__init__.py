"""How the pages of latent caches are named, and what workers say of those that they hold: pure."""
