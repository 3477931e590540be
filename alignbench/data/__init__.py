"""Data cards (what a data set is and where it comes from) and the loader from which tasks get rows."""

from alignbench.data.cards import card_names, read_card
from alignbench.data.load import Loaded, Row, load
from alignbench.types.record import Provenance

__all__ = ["Loaded", "Provenance", "Row", "card_names", "load", "read_card"]
