"""Pronouns by a person's gender."""

SHE = {"female": "she", "male": "he", "non-binary": "they"}
HER = {"female": "her", "male": "him", "non-binary": "them"}
HERS = {"female": "her", "male": "his", "non-binary": "their"}  # before a noun
