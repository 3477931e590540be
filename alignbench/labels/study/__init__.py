"""A labeling study: the page for labelers, its server, and the answers in SQLite."""
