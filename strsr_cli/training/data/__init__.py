"""Photos to batches."""
