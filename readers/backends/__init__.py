"""Backends: one file a way to run a generating model. Their contract stands in ``rag.backend``."""
