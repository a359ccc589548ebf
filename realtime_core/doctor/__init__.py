"""The doctor: finds out by SQL what blocks replication, or may harm it later, and how to fix it."""

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
