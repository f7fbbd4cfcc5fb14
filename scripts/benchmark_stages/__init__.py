"""What the benchmarks of scripts/ are made of: stages, a plain reference beside them, accuracy."""
