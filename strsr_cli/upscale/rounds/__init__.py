"""What follows a batch in the same run: images of other parts, scores of finished ones, files that arrive."""
