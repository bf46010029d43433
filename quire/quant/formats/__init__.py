"""The checkpoint formats that quantized models come in: one file each, all read into one matrix."""
