"""Every malformed, odd and hostile file, through the command, with real decoders: each indexed or listed."""

import json
import os
import sys
from fnmatch import fnmatchcase as fnmatch

import pytest

from clipsearch.paths import from_json
from clipsearch_indexer.scan import DEFAULT_EXCLUDES, is_image_name
from tests.clipsearch.cli.conftest import FAKE

MEMORY_MB = 1024
CPU_SECONDS = 10  # for a single file; here, with room, for a hundred of them
# A process counts the memory of the one that it was forked from as its own, so a small one comes between.
LAUNCHER = """
import json, pathlib, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
pathlib.Path(sys.argv[1]).write_text(json.dumps([used.ru_maxrss, used.ru_utime + used.ru_stime]))
sys.exit(code)
"""


def images_below(folder):
    """Every path below `folder` that is named like an image and is no folder, as bytes."""
    found = set()
    stack = [os.fsencode(folder)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:  # too long or not permitted, which the command has to say
            continue
        for entry in entries:
            if any(fnmatch(os.fsdecode(entry.name), pattern) for pattern in DEFAULT_EXCLUDES):
                continue
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif is_image_name(entry.name):
                found.add(entry.path)
    return found


@pytest.mark.shared
def test_none_stops_the_run_and_none_is_dropped_in_silence(commands, shared, oddities, tmp_path):
    told = tmp_path / "usage"
    measured = commands.by(sys.executable, "-c", LAUNCHER, os.fspath(told), *FAKE)
    said = measured("index", shared / "bad", oddities, "--json", "--workers", "1", code=1).stdout
    peak, seconds = json.loads(told.read_text())
    assert peak < MEMORY_MB * 1024  # of the largest process: a decoder
    assert seconds < 100 * CPU_SECONDS
    summary = json.loads(said)
    failed = {from_json(entry["path"]): entry["reason"] for entry in summary["failed"]}
    left = {from_json(entry["path"]): entry["reason"] for entry in summary["unscanned"]}
    assert all(failed.values())
    assert all(left.values())
    hits = json.loads(commands("query", "red", "-n", "99999", "--json").stdout)
    indexed = {from_json(path) for hit in hits for path in (hit["path"], *hit["copies"])}
    assert len(indexed) > 100
    blind = tuple(path.rstrip(b"/") + b"/" for path in left)
    for path in images_below(shared / "bad") | images_below(oddities):
        assert path in indexed or path in failed or path in left or path.startswith(blind), path
    assert not [reason for reason in failed.values() if "processor time" in reason or "crashed" in reason]
