"""Reading the symmetry of a network off its traced graph."""
