"""How a pool's model comes to be readable, and what is remembered of it."""
