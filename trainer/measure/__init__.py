"""How fast a run is, what stands in its way, and whether the numbers may be believed."""
