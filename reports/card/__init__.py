"""The audit card: an audit on two pages, for a model release."""
