"""A report as text."""

from __future__ import annotations

from asynchub.pipeline.report import PipelineReport

__all__ = ("laid_out",)


def laid_out(report: PipelineReport) -> str:
    """Return a report as lines of text."""
    lines = [f"{report.pipeline}  {report.state}  {report.verdict.kind} {report.verdict.stage} {report.verdict.reason}"]
    for stage in report.stages:
        lines.append(f"{stage.name:12} {stage.throughput:8.1f}/s busy {stage.busy:.2f} c={stage.concurrency}")
    return "\n".join(lines)
