"""What can be wrong with a measurement."""


class MeasureError(ValueError):
    """A measurement that cannot be made, or a file of one that cannot be used; for the user."""
