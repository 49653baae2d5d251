"""`make fuzz`: sends mutated AdmissionReviews to the webhook and checks invariants of the answers.

Why not atheris, which maximizes coverage: five thousand of these reviews already cover nearly every
line of the mutation, and atheris cannot instrument msgspec, which parses the bytes and is written in
C. Why not Hypothesis: it creates hundreds of reviews per second instead of thousands.
"""
