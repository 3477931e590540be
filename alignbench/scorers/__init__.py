"""Scorers: text in, numbers out. A scorer's name and revision are part of the identity of every metric made with it."""

from alignbench.scorers.registry import DEFAULTS, SCORERS, ScorerSpec, all_scorers, find_scorer, look_up
from alignbench.types.scorer import Item, Scorer, ScorerIdentity

__all__ = ["DEFAULTS", "SCORERS", "Item", "Scorer", "ScorerIdentity", "ScorerSpec"]
__all__ += ["all_scorers", "find_scorer", "look_up"]
