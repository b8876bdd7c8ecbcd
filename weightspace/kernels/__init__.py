"""Sparse matrix products that training needs."""
