"""Where a batch is made: in this process, or by the workers of a Ray cluster."""
