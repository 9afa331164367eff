"""How a model comes here from elsewhere: sources, parts, and the cache in which it ends whole."""
