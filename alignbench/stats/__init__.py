"""Statistics: estimates with intervals, paired tests, win rates, Bradley–Terry strengths. Pure functions."""
