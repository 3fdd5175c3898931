import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
fakes = importlib.import_module("fakes")
FAKE = [sys.executable, str(Path(__file__).with_name("fake_cli.py"))]


def write_many(root, count):
    for number in range(count):
        fakes.write(root / f"{number:03}.png", (number + 1, 200 - number, 7), note=str(number))


def vanish(process):
    """Read what a process has left to say, and give its exit code."""
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def wait_for(process, batches):
    for _ in range(batches):
        assert process.stderr.readline() == "embedded\n"


def decoders(pid):
    """The worker processes of an indexer."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def state(commands):
    """What can be told of a library: the numbers, and each photo with its score."""
    commands("check")
    status = json.loads(commands("status", "--json").stdout)
    hits = json.loads(commands("query", "red", "-n", "999", "--json").stdout)
    numbers = [status[name] for name in ("images", "files", "missing", "failed", "index")]
    return numbers, sorted((hit["path"], hit["score"]) for hit in hits)


def test_a_first_run_a_second_and_what_they_say(commands, photos):
    (photos / "bad.jpg").write_text("no picture")
    first = commands("index", photos, code=1)
    assert first.stdout == ""
    assert first.stderr.startswith("4 new photos, 1 failed in ")
    assert "Failed: photos/bad.jpg: " in first.stderr
    assert "Model: colours." in first.stderr
    assert first.stderr.endswith("The library at library holds 4 photos.\n")
    second = commands("index")
    assert "0 new photos, 4 unchanged, 1 failed before and unchanged (not tried again)" in second.stderr
    assert "Model:" not in second.stderr
    summary = json.loads(commands("index", "--json", "photos").stdout)
    assert (summary["new"], summary["unchanged"], summary["quarantined"]) == (0, 4, 1)
    assert summary["failed"] == []


def test_a_tar_shard_is_a_folder(commands, photos):
    subprocess.run(
        ["tar", "cf", "shard.tar", "-C", "photos", "red.png", "green.png"], cwd=commands.cwd, check=True
    )
    assert "2 new photos in " in commands("index", "shard.tar").stderr
    assert "0 new photos, 2 unchanged in " in commands("index").stderr
    assert commands("query", "red", "-n", "1").stdout == "1.000\tshard.tar/red.png\n"
    assert commands("similar", "shard.tar/red.png").stdout.endswith("\tshard.tar/green.png\n")
    assert commands("query", "red", "--under", "shard.tar/red.png").stdout.count("\n") == 1
    assert "2 files hold what was indexed." in commands("check", "--deep").stderr
    assert "2 new photos, 2 copies" in commands("index", photos).stderr  # of the four in the folder


def test_status_tells_people_and_programs(commands, photos):
    (photos / "bad.jpg").write_text("no picture")
    commands("index", photos, code=1)
    (photos / "red.png").unlink()
    commands("index")
    text = commands("status", "--failed").stdout
    for line in ("photos   3 in 3 files", "missing  1", "failed   1", "model    colours", "folder   photos"):
        assert line in text.splitlines()
    assert "index    exact search of 4 vectors" in text
    assert "failed   photos/bad.jpg: " in text
    status = json.loads(commands("status", "--json", "--failed").stdout)
    assert {name: status[name] for name in ("images", "files", "missing", "failed", "model")} == {
        "images": 3,
        "files": 3,
        "missing": 1,
        "failed": 1,
        "model": "colours",
    }
    assert status["index"] == {"kind": "exact", "vectors": 4}
    assert status["failures"][0]["path"] == str(photos / "bad.jpg")
    assert commands("prune").stderr == "Forgot 1 file and 1 photo.\n"
    assert commands("compact").stderr == "Freed 1 vector.\n"
    assert commands("check").stderr == "The library is whole.\n"


def test_an_offline_folder_is_told_and_kept(library, photos):
    photos.rename(photos.with_name("away"))
    done = library("index", code=1)
    assert "Offline: photos cannot be reached; its photos are kept." in done.stderr
    assert "(offline)" in library("status").stdout
    assert len(library("query", "red").stdout.splitlines()) == 4


def test_a_backup_is_a_library(library, tmp_path):
    library("backup", tmp_path / "copy")
    copy = library.over(tmp_path / "copy")
    assert copy("query", "red").stdout == library("query", "red").stdout
    assert "exists already" in library.error("backup", tmp_path / "copy", code=9)


def test_another_model_and_a_folder_of_the_first_that_is_offline(library, photos, tmp_path):
    done = library("index", "--model", "others")
    assert "0 new photos, 4 known photos embedded for this model, 4 unchanged" in done.stderr
    assert "model    others" in library("status").stdout
    assert library("query", "red", "-n1").stdout == "1.000\tphotos/red.png\n"
    photos.rename(photos.with_name("away"))
    library("index", "--model", "colours", code=1)
    assert "model    colours" in library("status").stdout  # which has embedded all of them before


def test_excludes_leave_out(commands, photos):
    assert "3 new photos" in commands("index", photos, "-x", "sea").stderr
    second = commands.over(photos.parent / "second")
    assert "2 new photos" in second("index", photos, "-x", "red*", "-x", "sea").stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_keeps_what_was_done_and_a_rerun_does_the_rest(commands, tmp_path, number, code):
    write_many(tmp_path / "many", 30)
    process = commands.start("index", "many", "--batch", "2", "--workers", "1", FAKE_PAUSE="0.05")
    wait_for(process, 4)
    workers = decoders(process.pid)
    assert workers
    process.send_signal(number)
    returncode, said = vanish(process)
    assert returncode == code
    assert "Traceback" not in said
    kept = json.loads(commands("status", "--json").stdout)
    assert kept["last_run"]["status"] == "interrupted"
    assert 6 <= kept["images"] < 30  # three batches were whole
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    commands("check")
    done = json.loads(commands("index", "--json").stdout)
    assert done["new"] == 30 - kept["images"]


def test_kill_at_any_moment_and_the_rerun_gives_what_an_undisturbed_run_gives(commands, tmp_path):
    write_many(tmp_path / "many", 80)
    undisturbed = commands.over(tmp_path / "undisturbed")
    undisturbed("index", "many")
    chance, kept = random.Random(7), 0
    options = ("index", "many", "--batch", "2", "--workers", "1")
    for _ in range(4):
        process = commands.start(*options, FAKE_PAUSE="0.01", FAKE_COMMIT="0")
        wait_for(process, 3)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        before, later = kept, process.communicate()[1].count("embedded\n")
        kept = json.loads(commands("status", "--json").stdout)["images"]
        assert kept >= before + 2 * (2 + later)  # only the batch in flight is done again
    done = json.loads(commands(*options, "--json").stdout)
    assert (done["new"], done["reembedded"], done["unchanged"]) == (80 - kept, 0, kept)
    assert state(commands) == state(undisturbed)


def test_a_log_that_is_removed_is_noticed_and_what_it_held_is_indexed_again(commands, tmp_path):
    write_many(tmp_path / "many", 8)
    process = commands.start(
        "index", "many", "--batch", "2", FAKE_PAUSE="0.05", FAKE_COMMIT="0", FAKE_SERIAL="1"
    )
    wait_for(process, 4)
    process.kill()
    process.communicate()
    assert json.loads(commands("status", "--json").stdout)["images"] >= 6
    (commands.library / "catalog.db-wal").unlink()
    assert "commits are gone" in commands("check", code=7).stderr
    assert json.loads(commands("index", "many", "--json").stdout)["new"] == 8
    commands("check", "--deep")
    assert len(commands("query", "red").stdout.splitlines()) == 8


def test_photos_on_a_read_only_disk(commands, photos, tmp_path):
    """And nothing is written beside the photos where it could be."""
    before = {path: path.stat().st_mtime_ns for path in (photos, *photos.rglob("*"))}
    commands("index", photos)
    assert {path: path.stat().st_mtime_ns for path in (photos, *photos.rglob("*"))} == before
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
    prefix = ["unshare", "-m", "sh", "-c", script, "sh", str(photos)]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    read_only = commands.over(tmp_path / "other").by(*prefix, *FAKE)
    assert "4 new photos" in read_only("index", photos).stderr
    assert "4 unchanged" in read_only("index").stderr


@pytest.fixture
def ordinary():
    """What a program is run by so that modes of files bind it, as they bind everyone but root."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root that cannot put its rights aside")
    return prefix


def test_what_may_not_be_read_is_told_and_kept(commands, photos, ordinary):
    """A photo, a folder that cannot be listed, and one of which only the names can be read."""
    fakes.write(photos / "wood" / "brown.png", (120, 70, 20))
    commands("index", photos)
    before = commands("query", "red", "-0").stdout
    assert before.count("\0") == 5
    modes = {photos / "red.png": 0, photos / "sea": 0, photos / "wood": 0o444}
    kept = {path: path.stat().st_mode for path in modes}
    for path, mode in modes.items():
        path.chmod(mode)
    try:
        said = commands.by(*ordinary, *FAKE)("index", code=1).stderr
        assert commands("prune").stderr == "Forgot 0 files and 0 photos.\n"
        assert commands("query", "red", "-0").stdout == before
    finally:
        for path, mode in kept.items():
            path.chmod(mode)
    assert "Failed: photos/red.png: permission denied\n" in said
    assert "Not scanned: photos/sea: Permission denied\n" in said
    assert "Not scanned: photos/wood/brown.png: Permission denied\n" in said
    assert "5 unchanged" in commands("index").stderr


def test_a_second_indexer_is_refused_and_told_who_is_at_work(commands, tmp_path):
    write_many(tmp_path / "many", 8)
    process = commands.start("index", "many", "--batch", "1", FAKE_PAUSE="0.4")
    wait_for(process, 1)
    message = commands.error("index", "many", code=6)
    assert f"by process {process.pid} on " in message
    assert "running" in commands("status").stdout  # a reader does not wait
    process.send_signal(signal.SIGINT)
    assert vanish(process)[0] == 130
    commands("index")


def test_the_real_model_end_to_end(real, photos, tiny_model):
    chosen = {"CLIPSEARCH_MODELS": str(tiny_model)}
    info = json.loads(real("models", "info", "tiny", "--json", **chosen).stdout)
    assert (info["name"], info["edge"], info["dim"]) == ("tiny", 32, 16)
    assert "* tiny              on this machine" in real("models", "list", **chosen).stdout
    listed = json.loads(real("models", "list", "--json", **chosen).stdout)
    assert {"name": "tiny", "installed": True} in listed
    assert sum("imagenet_zero_shot" in entry for entry in listed) == 12
    done = real("index", photos, "--model", "tiny", **chosen)
    assert done.stderr.startswith("4 new photos in ")
    hits = json.loads(real("query", "a dog", "--json", **chosen).stdout)
    assert len(hits) == 4
    assert all(-1 <= hit["score"] <= 1 for hit in hits)


@pytest.mark.shared
def test_photos_that_exist_for_real(real, shared, tiny_model):
    done = json.loads(real("index", shared / "photos", "--model", tiny_model / "tiny", "--json").stdout)
    assert done["new"] > 200
    assert done["failed"] == []


def test_the_plan_of_a_library(commands, tmp_path):
    assert "There is no library" in commands.error("index", "--plan", code=4)
    fakes.write(tmp_path / "photos" / "red.png", (255, 0, 0))
    commands("index", tmp_path / "photos")
    told = commands("index", "--plan", "--memory", "2 GB").stdout
    assert told.startswith("Within 2.0 GB of memory")
    assert told.count("exact search") == 3
    assert [plan["vectors"] for plan in json.loads(commands("index", "--plan", "--json").stdout)] == [
        1,
        10,
        100,
    ]
    assert "is no size; write 500MB or 2GB" in commands.error("index", "--plan", "--memory", "much", code=2)
    assert "is no size" in commands.error("index", "--memory", "0GB", code=2)


def test_an_index_is_built_told_and_measured(commands, tmp_path):
    write_many(tmp_path / "photos", 190)
    write_many(tmp_path / "more", 90)
    for number in range(90):
        fakes.write(tmp_path / "more" / f"{number:03}.png", (number, 7, 200 - number), note=f"more {number}")
    commands("index", tmp_path / "photos")
    assert "This library has no index" in commands.error("eval-index", code=2)
    commands("index", tmp_path / "photos", tmp_path / "more", "--ann", "--memory", "1GB")
    status = commands("status").stdout
    assert "recall@10: text " in status
    assert " ms, image " in status
    table = commands("eval-index", "-n", "5", "--plot", tmp_path / "curve.png").stdout
    assert "| text queries: lists read | candidates × 5 | recall@5 | median ms | p95 ms |" in table
    assert "| exact search | all | 1.000 |" in table
    assert "(used)" in table
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    points = json.loads(commands("eval-index", "--json").stdout)
    assert set(points) == {"text", "image"}
    assert points["text"][0]["recall"] == 1.0
