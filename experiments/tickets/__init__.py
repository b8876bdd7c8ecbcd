"""Experiments on ticket finders."""
