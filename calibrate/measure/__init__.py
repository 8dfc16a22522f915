"""Measuring what operators and whole steps take on real kernels, into one JSON-lines file.

What is here runs on machines that have only the standard library, torch, triton and numpy;
`calibrate.run` is the door for everybody else, and `calibrate.measured` makes a latency table.
"""
