"""A run as one HTML page, and many runs as a static site. Needs the extra `report`, and is imported only for it."""
