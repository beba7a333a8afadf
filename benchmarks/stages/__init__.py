"""Stages in separate processes, and what they are measured against: one process, and pipelines."""
