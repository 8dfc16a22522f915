"""What can be wrong with a wish for kernels. Needs no torch, so that its lack can be told."""


class KernelError(ValueError):
    """Something a user asked of kernels that cannot be had; the message says why."""


class Unsupported(KernelError):
    """A format, shape or device that a provider has no kernel for."""


class MissingProvider(KernelError):
    """A provider that this machine does not have; the message says what it lacks."""
