"""The record of runs: metrics.jsonl first, MLflow from it. Importing this never imports MLflow."""

from sdar.tracking.provenance import write_provenance
from sdar.tracking.recorder import RunRecorder

__all__ = ["RunRecorder", "write_provenance"]
