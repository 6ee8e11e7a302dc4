"""The commands, one module each. They check what they are given before they import what is slow."""
