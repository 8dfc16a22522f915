"""A measurement of one GPU in three parts (measure.sh), and what it compiles ahead."""
