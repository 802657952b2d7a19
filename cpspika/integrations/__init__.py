"""Faces for programs and libraries that were written for others: each is a module of its own, imported by its name."""
