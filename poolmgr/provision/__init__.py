"""How a model comes to be readable and an engine comes to run."""
