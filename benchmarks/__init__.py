"""Comparisons with other tools, on the same servers."""
