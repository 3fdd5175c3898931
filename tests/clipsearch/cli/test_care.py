import json
import shutil


def vectors(library):
    (file,) = library.library.glob("spaces/*/vectors.f16")
    return file


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_whole_library(library):
    assert library("check").stderr == "The library is whole.\n"
    done = library("check", "--deep")
    assert done.stdout == ""
    assert "4 files hold what was indexed.\nThe library is whole.\n" in done.stderr
    told = json.loads(library("check", "--deep", "--json").stdout)
    assert (told["whole"], told["deep"], told["sealed"], told["problems"]) == (True, True, True, [])
    assert told["photos"] == {"same": 4, "newer": 0, "gone": 0, "changed": [], "unreadable": []}
    assert told["spaces"] == [
        {"model": "colours", "vectors": 4, "damaged": [], "photos": [], "index": None},
    ]
    assert json.loads(library("check", "--json").stdout)["photos"] is None
    assert library("repair").stderr == "There was nothing to repair.\n"
    assert json.loads(library("repair", "--json").stdout)["index_run"] is None
    assert json.loads(library("compact", "--json").stdout) == {"freed": 0}


def test_a_damaged_vector_is_named_mended_and_never_searched(library, photos):
    flip(vectors(library), 0)
    assert "check" in library.error("query", "red", code=7)
    done = library("check", code=7)
    assert "Damaged embedding: photos/" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    told = json.loads(library("check", "--json", code=7).stdout)
    assert told["whole"] is False
    [space] = told["spaces"]
    assert (space["damaged"], len(space["photos"])) == ([0], 1)
    done = library("repair")
    assert done.stderr.startswith("1 damaged embeddings dropped, to be made again\n")
    assert "1 known photos embedded for this model" in done.stderr
    library("check", "--deep")
    assert library("query", "red", "-n1").stdout == "1.000\tphotos/red.png\n"


def test_a_photo_that_is_offline_stays_pending(library, photos):
    flip(vectors(library), 0)
    photos.rename(photos.with_name("away"))
    done = library("repair", code=1)
    assert "Offline: photos" in done.stderr
    assert "1 photo could not be embedded" in done.stderr
    library("check")
    assert len(library("query", "red").stdout.splitlines()) == 3


def test_photos_that_cannot_be_read_are_code_1(library, photos):
    (photos / "red.png").unlink()
    (photos / "red.png").mkdir()
    done = library("check", "--deep", code=1)
    assert "Cannot be read: photos/red.png: cannot be read: Is a directory" in done.stderr
    assert "The library is whole." in done.stderr


def test_a_damaged_catalog_is_restored_from_a_backup(library, tmp_path):
    copied = json.loads(library("backup", tmp_path / "copy", "--json").stdout)
    assert copied == {"backup": str(tmp_path / "copy")}
    flip(library.library / "catalog.db", 4096 * 3 + 100)
    assert "restore" in library.error("query", "red", code=7)
    done = library("restore", tmp_path / "copy")
    assert "The library at library is that of the backup." in done.stderr
    assert "lies at library.replaced-1" in done.stderr
    assert len(library("query", "red").stdout.splitlines()) == 4
    assert "no backup of one" in library.error("restore", tmp_path / "photos", code=4)
    told = json.loads(library("restore", tmp_path / "copy", "--json").stdout)
    assert told == {"library": str(library.library), "replaced": f"{library.library}.replaced-2"}
    flip(vectors(library.over(tmp_path / "copy")), 0)
    assert "damaged itself" in library.error("restore", tmp_path / "copy", code=7)


def test_a_library_that_was_copied_without_its_log(library, tmp_path):
    """What a file-level copy of a library that is being written may look like."""
    shutil.copytree(library.library, tmp_path / "copy")
    (tmp_path / "copy" / "GENERATION").write_text("999\n")
    copy = library.over(tmp_path / "copy")
    done = copy("check", code=7)
    assert "commits are gone" in done.stderr
    assert "commits are gone; what they held is read again" in copy("repair").stderr
    copy("check", "--deep")
