"""Generation with a transformers model: packed rows on a CPU, padded batches on a GPU, or one prompt at a time."""
