"""Experiments on Bayesian tickets."""
