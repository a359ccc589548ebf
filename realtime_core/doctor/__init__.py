"""What would stop a source, or harm it later, as far as SQL can tell."""

from .diagnosis import Diagnosis, diagnose
from .findings import Finding, Severity

__all__ = [
    # .diagnosis
    "Diagnosis",
    "diagnose",
    # .findings
    "Finding",
    "Severity",
]
