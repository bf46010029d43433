"""The pieces behind `examples/train_demo_model.py`."""
