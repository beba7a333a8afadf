"""What of PyTorch this library works with: every public module against every feature.

``python -m tests.compatibility`` runs the matrix and writes it into ``docs/compatibility.rst``;
in the gate the same tests run, and the page has to say what they found.
"""
