"""Bytes on disk, or on a hub, become named numpy arrays: no torch, no code from a checkpoint."""
