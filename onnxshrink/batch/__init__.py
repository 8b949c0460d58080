"""Many models at once: planned, run in processes of their own, written down as each one ends."""
