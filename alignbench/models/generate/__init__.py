"""Generation with a transformers model: many samples at once on packed rows, or one prompt at a time."""
