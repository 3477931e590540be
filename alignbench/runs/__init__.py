"""Run folders: identity, locking, resuming, records, summaries, and the reader."""
