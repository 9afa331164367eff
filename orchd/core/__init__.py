"""Decisions: admission, queues, placement, prediction, a task's life. Synchronous and pure.

Nothing here reads a clock, awaits, logs, draws a random number or touches IO: time is an argument,
and what is to be done comes back as effects. The one door is front.Front.

Below it, top first: sets and views, flow, state, placing and learning, queues, given, limits
(specs/01-architecture.md).
"""
