"""Four readers that search while a writer indexes, deletes, compacts and rebuilds the index.

CLIPSEARCH_CROWD_SECONDS says for how long; `make crash-test` takes ten minutes.
"""

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from clipsearch import Library
from clipsearch.folder import LibraryFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
fakes = importlib.import_module("fakes")
SECONDS = float(os.environ.get("CLIPSEARCH_CROWD_SECONDS", "4"))
READERS = 4
STAYING = 260
SIXTEEN = {"dim": 16}

READER = """
import select, sys
sys.path.insert(0, sys.argv[2])
import fakes
from clipsearch import Library
encoder, answers, library = fakes.ColourEncoder(dim=16), 0, None
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    # Every other time from the start, as a command does; else as the web page, with one open library.
    if answers % 2 == 0:
        library = Library.open(sys.argv[1], encoder=encoder)
    hits = library.search("red", 1000)
    found = {path for hit in hits for path in (hit.path, *hit.copies) if "/staying/" in path}
    assert len(found) == int(sys.argv[3]), len(found)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    health = library.check()
    assert health.is_good, health
    answers += 1
print(answers)
"""


def test_readers_never_miss_a_photo_nor_meet_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("clipsearch_indexer.decode.DecodePool", fakes.SerialPool)
    for number in range(STAYING):
        colour = (number % 256, 200, 9)
        fakes.write(tmp_path / "photos" / "staying" / f"{number}.png", colour, note=str(number))
    path = tmp_path / "library"
    with Library.open(path, create=True, encoder=fakes.ColourEncoder(**SIXTEEN)) as library:
        library.index([tmp_path / "photos"])
        library.build_index()
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", READER, path, Path(fakes.__file__).parent, str(STAYING)]
        readers = [subprocess.Popen(command, text=True, **pipes) for _ in range(READERS)]
        for reader in readers:
            assert reader.stdout.readline() == "ready\n"
        rounds, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end and all(reader.poll() is None for reader in readers):
            churn(library, tmp_path / "photos" / "passing", rounds)
            rounds += 1
        for reader in readers:
            said, errors = reader.communicate("stop\n")
            assert reader.returncode == 0, errors
            assert int(said) >= 1
        assert rounds >= 1
        assert library.check(deep=True).is_good


def churn(library, folder, number):
    """Photos come, change and go; the library is pruned, compacted, and now and then indexed anew."""
    for name in range(5):
        fakes.write(folder / f"{name}.png", (number % 256, 9, 200), note=f"{number} {name}")
    library.index()
    shutil.rmtree(folder)
    library.index()
    library.prune()
    if number % 2:
        library.compact()
    if number % 5 == 4:
        library.build_index()


TWENTY = """
import multiprocessing, os, sys
from pathlib import Path
from clipsearch.errors import LibraryLocked
from clipsearch.folder import LibraryFolder
import clipsearch.store.catalog

def write(start, told, end):
    start.wait()
    try:
        with LibraryFolder.open(Path(sys.argv[1])) as folder, folder.writer():
            told.put(f"held {os.getpid()}")
            end.wait()
    except LibraryLocked as error:
        told.put(str(error))

fork = multiprocessing.get_context("fork")
start, told, end = fork.Barrier(20), fork.Queue(), fork.Event()
# Whoever waits for the lock instead is ended with this process.
processes = [fork.Process(target=write, args=(start, told, end), daemon=True) for _ in range(20)]
for process in processes:
    process.start()
for _ in processes:
    print(told.get(timeout=30))
end.set()
for process in processes:
    process.join()
    assert process.exitcode == 0
"""


def test_one_of_twenty_indexers_writes_and_the_others_say_who(tmp_path):
    LibraryFolder.create(tmp_path / "library").close()
    command = [sys.executable, "-c", TWENTY, tmp_path / "library"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    [holder] = [line.removeprefix("held ") for line in said if line.startswith("held ")]
    refused = [line for line in said if not line.startswith("held ")]
    assert len(refused) == 19
    # Who came before the holder had written its name is told of "another process".
    assert all(f"by process {holder} on " in line or "by another process" in line for line in refused)
    assert any(f"by process {holder} on " in line for line in refused)
