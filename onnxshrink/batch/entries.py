"""The entry of a job: of the report of what was done, or of the reason why it was not."""

from __future__ import annotations

from onnxshrink.batch.job import Job
from onnxshrink.errors import ModelError
from onnxshrink.report.batch import BatchEntry
from onnxshrink.report.report import Report


def failed_entry(job: Job, reason: str, exit_code: int = ModelError.exit_code, *, seconds: float = 0.0) -> BatchEntry:
    """A model of which there is no result."""
    return BatchEntry(
        name=job.name,
        source=job.source,
        status="failed",
        key=job.key,
        reason=" ".join(reason.split()) or "unknown reason",
        source_sha256=job.source_sha256,
        preset=None if job.settings.recipe is not None else job.settings.preset,
        recipe=job.settings.recipe or "",
        seconds=seconds,
        exit_code=exit_code,
    )


def compressed_entry(job: Job, report: Report, *, seconds: float) -> BatchEntry:
    """The figures of a report that a summary shows."""
    latency, accuracy = report.latency, report.accuracy
    return BatchEntry(
        name=job.name,
        source=job.source,
        status="compressed",
        key=job.key,
        output=job.output,
        report=job.report,
        source_sha256=report.original.sha256,
        result_sha256=report.result.sha256,
        preset=report.preset,
        recipe=report.recipe,
        seconds=seconds,
        original_bytes=report.original.size.file_bytes,
        result_bytes=report.result.size.file_bytes,
        original_gzip_bytes=report.original.size.gzip_bytes,
        result_gzip_bytes=report.result.size.gzip_bytes,
        latency_ratio=None if latency is None else latency.ratio,
        latency_low=None if latency is None else latency.ratio_low,
        latency_high=None if latency is None else latency.ratio_high,
        latency_significant=latency is not None and latency.significant,
        relative_error=None if report.agreement is None else report.agreement.relative_error,
        metric=None if accuracy is None else accuracy.metric,
        metric_name="" if accuracy is None else accuracy.name,
        metric_unit="share" if accuracy is None else accuracy.unit,
        metric_higher_is_better=accuracy is None or accuracy.higher_is_better,
        metric_significant=None if accuracy is None else accuracy.significant,
        metric_original=None if accuracy is None else accuracy.original,
        metric_result=None if accuracy is None else accuracy.result,
        metric_low=None if accuracy is None else accuracy.difference_low,
        metric_high=None if accuracy is None else accuracy.difference_high,
        data_digest=None if report.agreement is None or report.data is None else report.data.digest,
        gates=report.gates,
        exit_code=1 if any(gate.status == "failed" for gate in report.gates) else 0,
    )
