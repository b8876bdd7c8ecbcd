"""Bayesian ticket studies: scores and controls side by side."""
