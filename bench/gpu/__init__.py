"""What the GPU at hand does: `python -m bench.gpu`."""
