"""The mock engine: a program that speaks llama-server's dialect and needs no model and no GPU.

`python -m poolmgr.mockengine --socket PATH --model mock:lorem`. It paces tokens exactly, its text
is a function of prompt, seed and parameters, and it breaks on request. One process, one epoll
loop, bare sockets: fast enough never to be the bottleneck of a measurement [ORCH-3058].
"""
