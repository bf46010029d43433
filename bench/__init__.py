"""Measurements for those who change Quire; `quire bench` is for those who run it.

peers             Quire beside other engines
gpu               kernels and whole models on a GPU
steps             where the time of a step goes; scripts/profile runs it
soak              what a server still holds after mixed traffic
startup           from starting a server to its first answer
speculation       what guessing gains and costs
quantization      every scheme with every algorithm
large_checkpoint  a checkpoint of an 8 B model's shape, to quantize
shapes            config.json of real models
"""
