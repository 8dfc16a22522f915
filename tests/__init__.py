import os

# Before anything imports triton: its kernels are run by its interpreter, on any machine.
os.environ.setdefault("TRITON_INTERPRET", "1")
