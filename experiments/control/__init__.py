"""Experiments on policies."""
