"""Triton bodies of the ops that take most of a GPU's time; they need torch and triton."""
