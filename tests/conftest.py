"""Machine code of its own for each state of the solver's sources, and a cache of data sets that is left to nobody.

numba looks at one file to see whether what it keeps on disk is out of date; the solver calls functions of others.
"""

import hashlib
import os
import tempfile
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[1] / "attnflow_hf" / "backends").glob("flow_*.py"))
STATE = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"attnflow_hf-{STATE}"))

CACHE = tempfile.TemporaryDirectory(prefix="attnflow_hf-datasets-")  # goes with the process
os.environ["HF_DATASETS_CACHE"] = CACHE.name
