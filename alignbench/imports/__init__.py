"""Results that exist already, of other tools, as run folders."""
