"""Face images: the layouts in which people have them, and bringing each to a square of the right size."""
