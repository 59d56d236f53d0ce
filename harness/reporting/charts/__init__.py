"""Charts, by Altair; only with the extra `report`."""
