"""Real kernels over a real paged KV pool, from several providers behind one face (face.py).

What is here runs on machines that have only the standard library, torch, triton and numpy.
"""
