"""Layouts, networks, collections and ensembles."""
