"""Triton code: what runs on the GPU, and nothing else. Its host side is calibrate/kernels/triton_*.

Triton reads these functions' source, so they have no types but constexpr. Written for triton
3.6 to 3.9; names in capitals are known when a kernel is compiled.
"""
