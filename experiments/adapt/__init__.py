"""Experiments on adapters and sparse changes of a pre-trained body."""
