"""Figures and the page of `alignbench report`: drawn from run folders alone, no model is asked."""
