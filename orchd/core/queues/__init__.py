"""Tasks in their order: one class, and the two classes of a pool.."""
