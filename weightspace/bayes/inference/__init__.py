"""Bayesian networks, priors and variational inference in Pyro."""
