"""The local engine: scoring on prefix trees, and generation (alignbench.models.generate), with a transformers model."""

from alignbench.models.local.engine import LocalEngine

__all__ = ["LocalEngine"]
