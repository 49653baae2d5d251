"""Mutated AdmissionReviews against the webhook's promises: `make fuzz`.

Why not atheris, which looks for what has not run yet: five thousand of these reviews already run
nearly every line that decides, and msgspec, which reads the bytes, is C that it cannot see into.
Why not Hypothesis: it makes some hundred reviews in a second where this makes thousands.
"""
