"""The demo, and its figures over seeds."""
