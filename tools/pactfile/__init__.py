"""The pact of orchctl and orchd: what is asked (runs.py), and how it is recorded (record.py)."""
