"""Experiments on 2:4 pruning."""
