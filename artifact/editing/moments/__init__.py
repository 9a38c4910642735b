"""Second moments of an edited module's inputs: their files and solves, where they come from, sums, and collection."""
