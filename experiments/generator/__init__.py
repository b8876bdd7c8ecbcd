"""Experiments on the generator of sparse networks."""
