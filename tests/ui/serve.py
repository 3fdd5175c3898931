"""The app with the model of `colours`, as a process of its own for the browser: ``serve.py LIBRARY PORT``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import colours

from clipsearch_ui.server import serve

if __name__ == "__main__":
    os.environ["CLIPSEARCH_LIBRARY"] = sys.argv[1]
    if "CLIPSEARCH_REAL_MODEL" not in os.environ:
        colours.install()
    serve(int(sys.argv[2]), browser=False)
