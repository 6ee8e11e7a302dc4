"""Sparsifiers: which latents stay active in a batch, and by which threshold at inference."""
