"""`make demo`: index photographs, then run three queries whose answers a person can check.

Without --photos it takes the photographs that come inside scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DEMO = Path("demo")
PACKAGED = {
    "skimage/data": (
        "astronaut.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
        "grass.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png",
        "page.png", "retina.jpg", "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}  # fmt: skip
QUERIES = ("a cat", "a cup of coffee", "a flower")


def packaged_photos(target: Path) -> Path:
    """Copy the packaged photographs to a folder of their own."""
    target.mkdir(parents=True, exist_ok=True)
    for folder, names in PACKAGED.items():
        package, _, rest = folder.partition("/")
        spec = find_spec(package)
        assert spec is not None, f"{package} is not installed"
        assert spec.submodule_search_locations is not None
        for name in names:
            shutil.copy(Path(spec.submodule_search_locations[0]) / rest / name, target / name)
    return target


def clipsearch(*arguments: str) -> None:
    """Run the command line as a user would; stop at an error (1 only says that some files failed)."""
    print("\n$ clipsearch", " ".join(f'"{word}"' if " " in word else word for word in arguments), flush=True)
    code = subprocess.run([Path(sys.executable).parent / "clipsearch", *arguments], check=False).returncode
    if code > 1:
        sys.exit(code)


def main() -> None:
    """Index and query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of your own photos")
    own = parser.parse_args().photos
    photos = own.expanduser() if own else packaged_photos(DEMO / "photos")
    library = str(DEMO / ("own-library" if own else "library"))
    clipsearch("index", str(photos), "--library", library)
    for query in QUERIES:
        clipsearch("query", query, "-n", "3", "--library", library)
    print(f'\nTry your own: .venv/bin/clipsearch query "…" --library {library}')
    print(f"In the browser: .venv/bin/clipsearch ui --library {library}")


if __name__ == "__main__":
    main()
