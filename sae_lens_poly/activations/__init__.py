"""Activations on disk: shards that independent jobs fill, read memory-mapped and shuffled."""
