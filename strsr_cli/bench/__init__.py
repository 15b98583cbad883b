"""strsr bench: measures upscale, and it alone."""
