"""Data cards (what a data set is and where it comes from) and the loader that tasks read rows through."""

from alignbench.data.cards import card_names, read_card
from alignbench.data.load import Loaded, load
from alignbench.types.provenance import Provenance

__all__ = ["Loaded", "Provenance", "card_names", "load", "read_card"]
