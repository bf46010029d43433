"""The sampler of quire.sampling.reference over many rows at once, on any device."""
