"""How fast the library is, against baselines in the same process."""
