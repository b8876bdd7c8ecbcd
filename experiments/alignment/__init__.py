"""Experiments on alignment: barriers, carried masks, instability, traced networks."""
