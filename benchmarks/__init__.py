"""Ratios against peers, side by side on the same servers."""
