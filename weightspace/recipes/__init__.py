"""How a network is trained: steps, schedules, optimisers."""
