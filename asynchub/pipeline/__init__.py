"""Where the time of a data pipeline goes, and who is to blame.

``asynchub.pipeline.monitor`` has ``Pipeline``, the front door.
"""

__all__ = ()
