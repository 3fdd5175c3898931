import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code, and one change is not held up by what chance finds in another:
# `pytest --hypothesis-profile explore` tries other cases each time.
settings.register_profile(
    "same",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("explore", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")

# A shell starts background jobs with Ctrl-C ignored, and `nohup` its own with SIGHUP, which every process
# that a test starts would inherit; a handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is left in the user's own cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of photographs and fixtures beside the checkout; in CI it has to be there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{folder} is not there, and CI must not skip what needs it")
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def oddities(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of bombs, broken files, odd names and special files, with a MANIFEST.tsv."""
    folder = tmp_path_factory.mktemp("oddities")
    subprocess.run([sys.executable, shared / "make_oddities.py", folder], check=True, capture_output=True)
    yield folder
    for locked in ("noread_dir", "nox_dir"):
        (folder / "fs" / locked).chmod(0o700)  # so that this can be cleaned up
