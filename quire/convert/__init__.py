"""Makes quantized checkpoints and measures them; nothing at run time needs it."""
