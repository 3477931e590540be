"""Results of run folders in the formats of other tools."""
