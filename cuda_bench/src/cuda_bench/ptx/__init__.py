"""Reads PTX: its types, the parser, and where threads that part at a branch meet again."""
