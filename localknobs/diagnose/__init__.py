"""From a symptom to the first lever: each symptom has a cheap probe that confirms or rejects it on this model, here.

`SYMPTOMS` is the table; `diagnose` is the job that runs one symptom's probe and returns its `Finding`.
"""

from localknobs.diagnose.finding import Case, Finding, Remedy
from localknobs.diagnose.symptoms import (
    SYMPTOMS,
    Symptom,
    diagnose,
    diagnose_all,
    find_symptom,
    finding_as_mapping,
)

__all__ = [
    "SYMPTOMS",
    "Case",
    "Finding",
    "Remedy",
    "Symptom",
    "diagnose",
    "diagnose_all",
    "find_symptom",
    "finding_as_mapping",
]
