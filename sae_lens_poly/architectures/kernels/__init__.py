"""Computations without parameters: sparse products, selection, the geometric median."""
