"""The web page in a real browser: how soon it can be used, how soon a search shows pictures, and its memory.

    python -m benchmarks.ui [--photos 10000 100000] [--searches 200] [--starts 5]

Libraries of `mini` with random vectors and a few real thumbnails, served by ``clipsearch ui``. A search is
timed in the page, from the Enter key until the first pictures of the new results are painted. Of several
starts, each with a browser that has nothing in store, the medians are told. Needs Chromium.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from benchmarks.made import as_installed, files, fill_ours, unit_vectors
from clipsearch.mapped_model import map_model
from clipsearch.themes import NAMES
from clipsearch.zoo import resolve

PICTURES = 64
"""Different thumbnails; the photos share them by hard links."""
WARM = 20
"""Searches before those that count."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60_000
VIEW: ViewportSize = {"width": 1280, "height": 860}

# Resolves to the milliseconds from Enter until the first three pictures of other results are painted.
WATCH = """
() => {
  const roots = () => [...document.querySelectorAll('.st-key-results *')].map((host) => host.shadowRoot);
  const tiles = () => roots().filter(Boolean).flatMap((root) => [...root.querySelectorAll('.tile img')]);
  const names = () => tiles().slice(0, 3).map((image) => image.src).join();
  const before = names();
  window.painted = new Promise((resolve) => {
    let asked = 0;
    const look = () => {
      const first = tiles().slice(0, 3);
      const there = first.length && names() !== before && first.every((i) => i.complete && i.naturalWidth);
      if (there) requestAnimationFrame(() => resolve(performance.now() - asked));
      else requestAnimationFrame(look);
    };
    document.addEventListener('keydown', (event) => {
      if (event.key === 'Enter') { asked = performance.now(); look(); }
    }, { once: true, capture: true });
  });
}
"""


@dataclass(frozen=True)
class Measured:
    """Seconds of each search; what one costs the server's processor.

    `memory` is the server's resident memory in MB: before the searches that count, then after each quarter.
    """

    searches: list[float]
    processor: float
    memory: list[float]


def library(place: Path, count: int) -> Path:
    """A library that knows `count` photos, each with a thumbnail on the disk."""
    model = map_model(resolve("mini").folder)
    assert model is not None
    found = files(place / "photos", count)
    vectors = unit_vectors(count, model.config.embed_dim)
    fill_ours(place / "library", place / "photos", found, vectors, model=(model.fingerprint, "mini", "mini"))
    kept = []
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (20, 30, 3)).astype(np.uint8)
        image = Image.fromarray(noise).resize((600, 400), Image.Resampling.BICUBIC)
        kept.append(place / f"{number}.webp")
        image.filter(ImageFilter.GaussianBlur(2)).save(kept[-1], "WEBP", quality=78)
    for number in range(count):
        name = number.to_bytes(16, "big").hex()
        folder = place / "library" / "thumbs" / name[:2]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(kept[number % PICTURES], folder / f"{name}-grid.webp")
    return place / "library"


@contextmanager
def served(place: Path) -> Iterator[tuple[str, int]]:
    """``clipsearch ui`` on a free port: its address, once it answers, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "clipsearch",
        "ui",
        "-l",
        str(place),
        "--port",
        str(port),
        "--no-browser",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=as_installed()
    ) as server:
        try:
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}", server.pid
        finally:
            server.terminate()


def memory(process: int) -> float:
    """Resident megabytes of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor(process: int) -> float:
    """Seconds of processors that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def search(page: Page, words: str) -> float:
    """Type a query and press Enter: seconds until its first pictures are painted."""
    box = page.locator(".st-key-q input")
    box.fill(words)
    page.evaluate(WATCH)
    box.press("Enter")
    return float(page.evaluate("window.painted")) / 1000


def start(browser: Browser, place: Path) -> tuple[float, float, float]:
    """Start the command, open the page: seconds to the box and to pictures, the server's CPU by then."""
    context = browser.new_context(viewport=VIEW)
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    started = time.perf_counter()
    with served(place) as (address, process):
        page.goto(address)
        page.locator(".st-key-q input").wait_for()
        box = time.perf_counter() - started
        page.locator(".tile img.there").first.wait_for()
        pictures = time.perf_counter() - started
        used = processor(process)
    context.close()
    return box, pictures, used


def measure(browser: Browser, place: Path, searches: int) -> Measured:
    """Start the command, open the page, search."""
    words = [f"{one} and {other}" for one, other in itertools.combinations(NAMES, 2)]
    random.Random(0).shuffle(words)
    page = browser.new_page(viewport=VIEW)
    page.set_default_timeout(SECONDS)
    with served(place) as (address, process):
        page.goto(address)
        page.locator(".tile img.there").first.wait_for()
        for query in words[:WARM]:
            search(page, query)
        taken, held, used = [], [memory(process)], processor(process)
        for number, query in enumerate(words[WARM : WARM + searches], 1):
            taken.append(search(page, query))
            if number % max(1, searches // 4) == 0:
                held.append(memory(process))
        used = (processor(process) - used) / searches
        page.close()
        return Measured(taken, used, held)


def main() -> None:
    """Make the libraries, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    heads = ("photos", "page usable", "pictures", "server CPU", "a search", "p95", "server CPU")
    print("".join(f"{head:>13}" for head in heads), "  server's memory")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for count in options.photos:
            with tempfile.TemporaryDirectory(prefix="clipsearch-") as scratch:
                place = library(Path(scratch), count)
                starts = [start(browser, place) for _ in range(options.starts)]
                found = measure(browser, place, options.searches)
            taken = sorted(found.searches)
            median, slow = statistics.median(taken), taken[int(len(taken) * 0.95)]
            held = ", ".join(f"{megabytes:.0f}" for megabytes in found.memory)
            begin = [statistics.median(each) for each in zip(*starts, strict=True)]
            seconds = (*begin, median, slow, found.processor)
            print(f"{count:13,}", *(f"{each:10.2f} s" for each in seconds), f"  {held} MB", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
