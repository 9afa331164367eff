"""The wire formats of engines, sans-IO: requests as bytes, answers read from bytes in any pieces."""
