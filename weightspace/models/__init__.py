"""Reference networks, built by name and arguments so that a collection on disk can rebuild them."""

from weightspace.models.mlp import MLP as MLP
