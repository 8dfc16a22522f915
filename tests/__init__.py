import os

# Before anything imports triton: its kernels are run by its interpreter, on any machine.
os.environ.setdefault("TRITON_INTERPRET", "1")
# Before anything imports torch: beside the other test processes, threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
