"""Which pictures, and what became of each; knows no network."""
