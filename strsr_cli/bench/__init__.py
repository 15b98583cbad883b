"""strsr bench: it measures upscale, and upscale alone."""
