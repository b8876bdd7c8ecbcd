"""Pruning in a training loop of your own."""
