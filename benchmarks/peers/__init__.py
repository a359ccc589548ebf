"""The programs that benchmarks/decoder.py runs side by side, each in its own environment."""
