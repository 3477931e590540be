"""Engines: what tasks may ask of a language model, and the local engine that answers."""
