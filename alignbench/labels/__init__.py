"""Human labels: the table, agreement of labelers, and what is derived from labels."""
