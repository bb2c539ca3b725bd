"""A report of a pipeline, which is a table as a string."""

from __future__ import annotations

from dataclasses import dataclass

from asynchub.pipeline.layout import laid_out
from asynchub.pipeline.report import PipelineFigures

__all__ = ("PipelineReport",)


@dataclass(frozen=True, slots=True)
class PipelineReport(PipelineFigures):
    """All that is known of a pipeline; ``str`` of it is a table, 100 columns wide. See ``PipelineFigures``."""

    def __str__(self) -> str:
        return laid_out(self)
