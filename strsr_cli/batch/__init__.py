"""The room of the batch: which pictures, and what became of each; it knows no network."""
