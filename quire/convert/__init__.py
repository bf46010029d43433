"""Makes quantized checkpoints: calibrates, rounds, measures, writes; nothing at run time needs it."""
