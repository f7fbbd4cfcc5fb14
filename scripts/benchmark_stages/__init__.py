"""Parts of the benchmarks in scripts/: stages, a plain reference, accuracy."""
