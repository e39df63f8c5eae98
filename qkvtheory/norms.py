"""Norms as values that a construction can look into: RMSNorm and LayerNorm, their gains, and what moves past them."""
