"""What the core is given and never changes: the configuration's pools, the catalog's cards."""
