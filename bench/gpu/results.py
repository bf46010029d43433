"""What bench.gpu found, in a file that is written after each finding; a limit on its time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Results"]


class Results:
    """A JSON file of findings by part and name.

    limit_s: once so much time has passed, nothing new is begun: the next run goes on from there.
    """

    def __init__(self, path: Path, limit_s: float = math.inf) -> None:
        self.path = path
        self._ends = time.monotonic() + limit_s
        self.found: dict[str, dict[str, Any]] = (
            json.loads(path.read_text()) if path.exists() else {}
        )

    def once(self, part: str, name: str, find: Callable[[], Any]) -> Any:
        """What was found before, or else what find() finds.

        Raises SystemExit, with what to do, when there is no time left to begin it.
        """
        known = self.found.setdefault(part, {})
        if name not in known:
            if time.monotonic() > self._ends:
                raise SystemExit(f"{part}: time is up before {name!r}; run it again to go on")
            known[name] = find()
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self.found, indent=2) + "\n")
            os.replace(partial, self.path)
        print(part, name, json.dumps(known[name]), flush=True)
        return known[name]

    def ceiling(self, name: str) -> float:
        """A finding of the part "ceilings"; 0 where that part has not run."""
        return float(self.found.get("ceilings", {}).get(name, 0.0))
