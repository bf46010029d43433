"""GGUF: one file that holds a model's config, its tokenizer and its weights."""
