"""What is watched while a kernel runs: memory, races between threads, branches taken."""
