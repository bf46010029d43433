"""The block formats of GGUF: a run of columns of one row as codes and the scales they share."""
