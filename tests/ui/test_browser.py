"""The real page in Chromium. Screenshots go to ``CLIPSEARCH_SCREENSHOTS`` where that names a folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.ui.conftest import build_library, make_photos

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SECONDS = 20_000
expect.set_options(timeout=SECONDS)
TILE = ".tile .open"
BOX = ".st-key-q input"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Chromium is not installed, and CI must not skip what needs it")
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("browser") / "photos")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(library: Path, log: Path) -> Iterator[str]:
    """Run the app with the fake model as a process of its own; gives its address."""
    port = free_port()
    script = Path(__file__).with_name("serve.py")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(script), str(library), str(port)], stdout=output, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(900):
                assert process.poll() is None, log.read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1):
                        break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import colours

    import clipsearch.encoder

    before = clipsearch.encoder.load_model
    colours.install()
    place = tmp_path_factory.mktemp("served")
    library = build_library(place / "library", folder)
    clipsearch.encoder.load_model = before
    yield from serve(library, place / "log")


def open_page(
    browser: Browser, address: str, *, width: int = 1280, height: int = 860, dark: bool = False
) -> Page:
    # One context for all pages: what the browser has fetched once it keeps.
    context = browser.contexts[0] if browser.contexts else browser.new_context()
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.set_default_timeout(SECONDS)
    outside: list[str] = []
    page.on(
        "request",
        lambda asked: (
            outside.append(asked.url)
            if not asked.url.startswith((address.rsplit(":", 1)[0], "data:", "blob:"))
            else None
        ),
    )
    page.on("pageerror", lambda error: outside.append(str(error)))
    page.outside = outside  # type: ignore[attr-defined]
    page.goto(address)
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    page = open_page(browser, address)
    expect(page.locator(TILE).first).to_be_visible()
    yield page
    assert page.outside == []  # type: ignore[attr-defined]
    page.close()


def ask(page: Page, words: str) -> None:
    box = page.get_by_role("searchbox", name="Search").or_(page.locator(BOX)).first
    box.fill(words)
    box.press("Enter")


def first_alt(page: Page) -> str:
    return str(page.locator(f"{TILE} img").first.get_attribute("alt"))


def expect_first(page: Page, name: str) -> None:
    expect(page.locator(f"{TILE} img").first).to_have_attribute("alt", re.compile(name))


def shot(page: Page, name: str) -> None:
    folder = os.environ.get("CLIPSEARCH_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(600)
        page.screenshot(path=Path(folder) / f"{name}.png")


def settled(page: Page) -> None:
    """Wait until the script has run and no transition is under way."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")


def accessible(page: Page, *, dark: bool = False) -> None:
    """axe finds nothing to object to: contrast, names, roles, the order of headings."""
    scheme = "dark" if dark else "light"
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.wait_for_function(
        "scheme => getComputedStyle(document.querySelector('.stApp')).colorScheme === scheme", arg=scheme
    )
    settled(page)
    found = Axe().run(page).response["violations"]
    assert not [
        (rule["id"], node["html"], node["failureSummary"]) for rule in found for node in rule["nodes"]
    ]


def test_words_by_keyboard_alone(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.locator(BOX)).to_be_focused()
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    expect_first(page, "green")
    page.wait_for_function("location.search.includes('q=green')")
    expect(page.get_by_text("best match first")).to_be_visible()
    page.locator(TILE).first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_function("location.search.includes('photo=')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.wait_for_function("!location.search.includes('photo=')")
    # The keyboard goes on where it was.
    expect(page.locator(f"{TILE}:focus")).to_have_count(1)
    here = page.locator(f"{TILE}:focus").get_attribute("data-photo")
    page.keyboard.press("ArrowRight")
    expect(page.locator(f"{TILE}:focus")).not_to_have_attribute("data-photo", str(here))
    shot(page, "words")


@pytest.mark.parametrize("path", ["", "map"])
def test_no_key_is_lost_while_the_page_comes(browser: Browser, address: str, path: str) -> None:
    page = browser.new_context().new_page()  # one that has nothing in store
    scripts: list[Route] = []
    page.route("**/static/js/**", lambda script: scripts.append(script))  # held back until all is typed
    page.goto(f"{address}/{path}", wait_until="commit")
    page.wait_for_selector("#root", state="attached")
    page.keyboard.type("/gren")
    page.keyboard.press("Backspace")
    page.keyboard.type("en")
    page.keyboard.press("Enter")
    assert not page.locator(BOX).count()
    for script in scripts:
        script.continue_()
    page.unroute("**/static/js/**")
    expect(page.locator(BOX)).to_have_value("green")
    expect_first(page, "green")
    page.wait_for_function("location.search.includes('q=green')")
    page.close()


def test_the_back_button_goes_back_at_once(page: Page) -> None:
    for words in ("red", "blue"):
        ask(page, words)
        expect_first(page, words)
        page.wait_for_function(f"location.search.includes('q={words}')")
    page.go_back()
    expect(page.locator(BOX)).to_have_value("red")
    expect_first(page, "red")
    page.go_forward()
    expect_first(page, "blue")


def test_the_search_page_is_fresh_after_another_page(page: Page) -> None:
    ask(page, "green")
    expect_first(page, "green")
    page.get_by_role("link", name="Timeline").click()
    page.wait_for_function("location.pathname === '/timeline'")
    page.get_by_role("link", name="Search").click()
    expect(page.locator(BOX)).to_have_value("")


def test_every_picture_has_an_alternative_text_and_is_a_thumbnail(page: Page) -> None:
    for image in page.locator(f"{TILE} img").all():
        assert image.get_attribute("alt")
        assert "/grid.webp?v=" in str(image.get_attribute("src"))
    page.wait_for_function("document.querySelectorAll('body').length === 1")


def test_an_uploaded_picture_and_a_broken_one(page: Page, folder: Path) -> None:
    upload = page.locator(".st-key-pick input[type=file]")
    upload.set_input_files(folder / "travel" / "blue-02.jpg")
    page.wait_for_function("location.search.includes('picture')")
    expect(page.get_by_role("button", name="like your picture").locator("img")).to_be_visible()
    expect_first(page, "blue")
    shot(page, "picture")
    upload.set_input_files({"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"nonsense" * 99})
    expect(page.get_by_text("This picture cannot be read: not an image")).to_be_visible()
    page.evaluate(
        """() => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array((20 << 20) + 1)], "a.jpg", {type: "image/jpeg"}));
          document.body.dispatchEvent(new ClipboardEvent("paste", {bubbles: true, clipboardData: files}));
        }"""
    )
    expect(page.get_by_text("This picture is too large: the limit is 20 MB")).to_be_visible()


def test_a_pasted_and_a_dropped_picture(page: Page, folder: Path) -> None:
    data = list((folder / "travel" / "red-00.jpg").read_bytes())
    for event in ("paste", "drop"):
        page.evaluate(
            """([name, data]) => {
              const files = new DataTransfer();
              files.items.add(new File([new Uint8Array(data)], "a.jpg", {type: "image/jpeg"}));
              const options = {bubbles: true, cancelable: true};
              document.body.dispatchEvent(name === "paste"
                ? new ClipboardEvent("paste", {...options, clipboardData: files})
                : new DragEvent("drop", {...options, dataTransfer: files}));
            }""",
            [event, data],
        )
        page.wait_for_function("location.search.includes('picture')")
        expect_first(page, "red")
        expect(page.locator(BOX)).to_have_value("")
        ask(page, "blue")  # in addition to the picture, which stays beside the box
        page.wait_for_function("/q=blue.*picture/.test(location.search)")
        page.get_by_role("button", name="like your picture").click()
        page.wait_for_function("!location.search.includes('picture')")
        expect_first(page, "blue")


def test_more_and_less_like_this(page: Page) -> None:
    ask(page, "yellow")
    expect_first(page, "yellow")
    tile = page.locator(".tile").first
    tile.hover()
    tile.get_by_role("button", name="More like this").click()
    page.wait_for_function("location.search.includes('photo%3A')")
    expect_first(page, "yellow")
    ask(page, "yellow + blue")
    # What is done next goes to the server with the address, which holds the search from now on.
    page.wait_for_function("new URLSearchParams(location.search).get('q').includes('yellow + blue')")
    page.locator(TILE).first.click()
    page.get_by_role("dialog").get_by_role("button", name="Less like this").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(BOX)).to_have_value("yellow + blue")
    chip = page.get_by_role("button", name=re.compile(r"unlike \S+\.jpg × 0\.3")).first
    expect(chip.locator("img")).to_be_visible()
    page.wait_for_function("document.querySelector('.st-key-chips img').naturalWidth > 0")
    shot(page, "less")
    accessible(page)
    page.emulate_media(color_scheme="light")
    chip.click()
    expect(chip).to_have_count(0)
    page.get_by_role("button", name=re.compile(r"like \S+\.jpg")).last.click()
    expect(page.locator(".st-key-chips")).to_have_count(0)
    page.wait_for_function("!location.search.includes('photo%3A')")


def test_a_photo_and_its_neighbours(page: Page) -> None:
    ask(page, "orange")
    expect_first(page, "orange")
    page.locator(TILE).first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".frame.there .photo")).to_have_attribute("src", re.compile("preview.webp"))
    expect(dialog.get_by_text("96 × 64 px").or_(dialog.get_by_text("64 × 96 px"))).to_be_visible()
    expect(dialog.get_by_text("1 of 48")).to_be_visible()
    # Until the page is done, a key may come before the dialog listens.
    expect(dialog.get_by_role("button", name="Next")).to_be_enabled()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    shot(page, "photo")
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_text("2 of 48")).to_be_visible()
    with page.expect_download() as download:
        dialog.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.endswith(".jpg")


def test_filters_and_no_result(page: Page, address: str) -> None:
    page.get_by_role("textbox", name="Name, caption or keyword").fill("red wall")
    page.keyboard.press("Enter")
    expect(page.get_by_text("5 photos", exact=False).first).to_be_visible()
    page.wait_for_function("location.search.includes('text=red')")
    page.get_by_role("textbox", name="Name, caption or keyword").fill("no such thing")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    shot(page, "nothing")
    accessible(page)
    page.get_by_role("button", name="Clear the filters").click()
    expect(page.get_by_text("64 photos", exact=False).first).to_be_visible()
    page.goto(f"{address}/?camera=Canon+EOS&q=red")
    expect(page.get_by_text("20 photos", exact=False).first).to_be_visible()


def test_the_search_box_is_a_key_away_on_every_page(page: Page, address: str) -> None:
    page.goto(f"{address}/library")
    expect(page.get_by_role("heading", name="Library").first).to_be_visible()
    settled(page)
    page.keyboard.press("/")
    expect(page.locator(BOX)).to_be_focused()


def test_the_menu_of_a_phone_makes_way_for_the_chosen_page(browser: Browser, address: str) -> None:
    page = open_page(browser, address, width=390, height=844)
    page.get_by_test_id("stExpandSidebarButton").click()
    settled(page)
    page.get_by_test_id("stSidebarNavLink").filter(has_text="Map").click()
    expect(page.get_by_role("heading", name="Map").first).to_be_visible()
    expect(page.get_by_test_id("stExpandSidebarButton")).to_be_visible()
    world = page.locator(".st-key-world .vega-embed")
    expect(world).to_be_visible()
    page.wait_for_function(
        """() => {
          const world = document.querySelector(".st-key-world .vega-embed").getBoundingClientRect();
          return world.height > 280 && Math.abs(world.width / world.height - 1.25) < 0.1;
        }"""
    )
    page.close()


def test_pages(page: Page) -> None:
    first = first_alt(page)
    page.get_by_role("button", name="Page 2").click()
    page.wait_for_function("location.search.includes('page=2')")
    expect(page.locator(f"{TILE} img").first).not_to_have_attribute("alt", first)
    page.reload()
    expect(page.locator(f"{TILE} img").first).to_be_visible()
    assert first_alt(page) != first


@pytest.mark.parametrize("name", ["Timeline", "Map", "Themes", "Duplicates", "Library"])
def test_the_other_pages(page: Page, name: str) -> None:
    page.get_by_role("link", name=name).first.click()
    expect(page.get_by_role("heading", name=name).first).to_be_visible()
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0)
    assert not page.get_by_text("Oh no", exact=False).count()
    shot(page, name.lower())
    accessible(page)
    accessible(page, dark=True)


def test_a_theme_shows_each_picture_as_it_comes(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    held: list[Route] = []

    def serve_one(route: Route) -> None:
        held.append(route)
        if len(held) == 1:
            route.continue_()

    page.route("**/grid.webp*", serve_one)
    page.goto(f"{address}/themes")
    expect(page.locator(".tile .open img.there")).to_have_count(1)
    waiting = page.locator(".tile.waiting.seen .open").first
    expect(waiting).to_be_visible()
    assert waiting.evaluate("tile => getComputedStyle(tile).animationName") == "waiting"
    for route in held[1:]:
        route.continue_()
    page.unroute("**/grid.webp*")
    expect(page.locator(".tile.waiting.seen")).to_have_count(0)
    context.close()


@pytest.mark.parametrize(("name", "width", "dark"), [("dark", 1280, True), ("phone", 390, False)])
def test_looks(browser: Browser, address: str, name: str, width: int, dark: bool) -> None:
    page = open_page(browser, f"{address}/?q=red", width=width, height=844, dark=dark)
    expect(page.locator(TILE).first).to_be_visible()
    ground = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    assert (sum(map(int, ground.strip("rgb()").split(",")[:3])) < 200) == dark
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator(TILE).first.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    wrappers = page.locator(".stMainBlockContainer > * > [data-testid=stLayoutWrapper]")
    heights = wrappers.evaluate_all(
        "all => all.filter(it => it.checkVisibility()).map(it => it.offsetHeight)"
    )
    assert 0 not in heights  # what is hidden leaves no gap
    shot(page, name)
    accessible(page, dark=dark)
    page.locator(TILE).first.click()
    expect(page.get_by_role("dialog").locator(".frame.there .photo")).to_be_visible()
    shot(page, f"{name}-photo")
    accessible(page, dark=dark)
    button = page.get_by_role("dialog").get_by_role("button", name="More like this")
    inside = button.evaluate("it => getComputedStyle(it).color")  # which axe does not see through the dialog
    assert (max(map(int, inside.strip("rgb()").split(",")[:3])) < 64) == dark
    page.close()


def test_first_run_indexing_and_a_deleted_file(browser: Browser, folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(folder, mine)
    for server in serve(tmp_path / "library", tmp_path / "log"):
        page = open_page(browser, server)
        expect(page.get_by_text("Find photos by what is in them")).to_be_visible()
        shot(page, "welcome")
        page.get_by_role("textbox", name="Folder of photos").fill(str(mine))
        page.get_by_role("button", name="Index this folder").click()
        expect(page.locator(TILE).or_(page.get_by_role("progressbar")).first).to_be_visible()
        page.goto(f"{server}/library")
        expect(page.get_by_text("64", exact=True).first).to_be_visible()
        expect(page.get_by_text("Files that could not be read (1)")).to_be_visible()
        shutil.rmtree(mine)
        page.goto(server)
        gone = page.locator(".tile.gone .absent").first
        expect(gone).to_be_visible()
        expect(gone).to_have_text(re.compile(r"^[a-z]+-\d+\.jpgOffline, or no longer there$"))
        page.close()
