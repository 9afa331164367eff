"""This machine: what it has, where engines are kept on it, how its tools are run."""
