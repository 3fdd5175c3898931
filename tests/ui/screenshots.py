"""Make the pictures of README.md and docs/ui.md: ``make screenshots``, or ``python tests/ui/screenshots.py``.

They show the photographs that scikit-image and scikit-learn bring along, and nothing else.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from test_browser import ARGUMENTS, CHROMIUM, TILE, serve

DOCS = Path(__file__).resolve().parents[2] / "docs" / "images"
PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/cell.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/coins.png",
    "skimage/data/color.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/motorcycle_right.png",
    "skimage/data/page.png",
    "skimage/data/retina.jpg",
    "skimage/data/rocket.jpg",
    "skimage/data/text.png",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)


def collect(folder: Path) -> Path:
    """Copy the packaged photographs to `folder`, without their packages' dates."""
    for place in PHOTOS:
        package, _, rest = place.partition("/")
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None
        target = folder / ("textures" if Path(place).stem in ("brick", "grass", "gravel") else "photos")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(found.origin).parent / rest, target / Path(place).name)
    return folder


def shoot(browser: Browser, address: str, words: str, opened: str, like: str) -> None:
    """A search, a photo of it, and what is like another one, in the dark."""
    page = browser.new_page(viewport={"width": 1120, "height": 680})
    page.set_default_timeout(120_000)
    page.goto(f"{address}/?q={words.replace(' ', '+')}")
    settle(page)
    keep(page, "ui-search")
    photo = page.get_by_role("button", name=f"Open {like}").get_attribute("data-photo")
    page.get_by_role("button", name=f"Open {opened}").click()
    page.locator("[role=dialog] .frame.there").wait_for()
    page.mouse.move(5, 5)
    page.wait_for_timeout(2000)
    keep(page, "ui-photo")
    page = browser.new_page(viewport={"width": 1120, "height": 680}, color_scheme="dark")
    page.set_default_timeout(120_000)
    page.goto(f"{address}/?q=photo:{photo}")
    settle(page)
    keep(page, "ui-like")


def settle(page: Page) -> None:
    """Wait until the pictures are there and nothing moves."""
    page.locator(f"{TILE} img.there").nth(8).wait_for()
    page.get_by_text("Show near-identical").wait_for()
    page.wait_for_timeout(2000)


def keep(page: Page, name: str) -> None:
    """Write a screenshot."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(DOCS / f"{name}.png", optimize=True)


def main() -> None:
    """Make all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="a model on this machine")
    parser.add_argument("--words", default="a flower", help="what is asked for")
    parser.add_argument("--photo", default="chelsea.png", help="which photo is opened")
    parser.add_argument("--like", default="gravel.png", help="which photo others are compared with")
    given = parser.parse_args()
    DOCS.mkdir(parents=True, exist_ok=True)
    os.environ["CLIPSEARCH_REAL_MODEL"] = "1"  # for the server, which is a process of its own
    from clipsearch.api import Library

    with tempfile.TemporaryDirectory(prefix="photos-") as name:
        place = Path(name)
        with Library.open(place / "library", create=True) as library:
            library.index([collect(place / "Pictures")], model=given.model)
        for address in serve(place / "library", place / "log"):
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                shoot(browser, address, given.words, given.photo, given.like)
                browser.close()


if __name__ == "__main__":
    main()
