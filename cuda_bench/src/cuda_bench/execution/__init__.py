"""Runs kernels: decodes their instructions, and takes all threads through them together."""
