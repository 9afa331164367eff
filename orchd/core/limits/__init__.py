"""What may be asked for, and how much: budgets, throttles, workloads, label values, timers.

Counts and compares; knows no pool and no task.
"""
