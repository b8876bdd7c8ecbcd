"""Files, shards, run folders and checkpoints on disk."""
