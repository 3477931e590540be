"""The shared data types: documents, records, metrics, tasks, and the protocols of engines and scorers."""
