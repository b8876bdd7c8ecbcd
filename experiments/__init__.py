"""Experiments: one script a question; README.md lists them."""
