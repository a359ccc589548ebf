"""The distribution's version; the build reads it from here, so a checkout has it too."""

__all__ = ["__version__"]

__version__ = "1.0.0rc1"
