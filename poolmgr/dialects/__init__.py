"""The wire formats of engines, sans-IO: requests to bytes, answers from bytes in any pieces."""
