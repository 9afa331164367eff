"""What a pool learns of itself: lengths, speeds, arrivals, and how wrong it was. No decisions."""
