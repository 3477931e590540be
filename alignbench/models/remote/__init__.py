"""Engines outside this process: OpenAI-compatible endpoints, and vLLM."""
