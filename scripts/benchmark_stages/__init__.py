"""The stages of scripts/benchmark.py, and the plain reference they are measured beside."""
