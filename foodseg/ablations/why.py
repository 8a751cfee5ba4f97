"""Why a row stands where it stands: one sentence each, by a person who has read its run.

Row's name -> sentence. The table prints it under the row's family, and only where the row has
results; what has not been measured has nothing to explain.
"""

from __future__ import annotations

WHY: dict[str, str] = {}
