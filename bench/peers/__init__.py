"""Measures Quire beside other engines on one machine in one run: `python -m bench.peers`."""
