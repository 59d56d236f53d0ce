"""Records to tables and back: the only owner of the CSV schema, and the judge of targets."""
