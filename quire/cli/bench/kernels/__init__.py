"""What `quire bench kernel` times: native kernels in the shapes of a model, and the machine."""
