"""Controls and ablations of tickets."""
