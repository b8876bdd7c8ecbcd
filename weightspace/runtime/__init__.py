"""Seeds, threads, devices, progress, and who runs what."""
