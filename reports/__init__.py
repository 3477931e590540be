"""Figures and the report page, drawn from run folders."""
