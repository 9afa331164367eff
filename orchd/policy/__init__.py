"""What may leave this machine: one decision, and the one door through which it goes."""
