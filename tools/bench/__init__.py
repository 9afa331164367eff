"""`python -m tools.bench`: what the suite costs and how fast it is, beside others on one machine.

Starts the real daemons with the mock engine on loopback and unix sockets in a temporary folder.
Goals and reading of the figures: specs/benchmarks.md.
"""
