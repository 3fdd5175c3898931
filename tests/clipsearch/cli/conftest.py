import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
fakes = importlib.import_module("fakes")

FAKE = [sys.executable, str(Path(__file__).with_name("fake_cli.py"))]


class Server:
    """Runs commands of `fake_cli.py`, started by another program where `by` names one."""

    def __init__(self, folder, by=()):
        self._folder = folder
        self._process = subprocess.Popen(
            [*by, *FAKE, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def run(self, arguments, cwd, environment):
        out, err = self._folder / "out", self._folder / "err"
        order = {"arguments": arguments, "cwd": str(cwd), "environment": environment}
        self._process.stdin.write(json.dumps(order | {"out": str(out), "err": str(err)}) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_bytes(), err.read_bytes())

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def mounting(tmp_path_factory):
    """A server that has mounts of its own, where the kernel lets us have some."""
    folder = tmp_path_factory.mktemp("mounting")
    mount = ["unshare", "-m", "mount", "-t", "tmpfs", "disk", str(folder)]
    tools = shutil.which("unshare") and shutil.which("nsenter")
    if not tools or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount here")
    server = Server(folder, by=["unshare", "-m"])
    yield server
    server.close()


@dataclass(frozen=True)
class Commands:
    """The command line, over one library, in one working directory.

    Each command is a process: forked by `server` with the fake model, or of another `program`.
    """

    server: Server
    library: Path
    cwd: Path
    program: tuple[str, ...] | None = None

    def environment(self, **extra):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSEARCH_")}
        kept |= {"CLIPSEARCH_LIBRARY": str(self.library), "HF_HUB_OFFLINE": "1", "COLUMNS": "40"}
        return kept | {"CLIPSEARCH_MODELS": str(self.cwd / "models"), "HOME": str(self.cwd)} | extra

    def __call__(self, *arguments, code=0, text=True, **extra):
        """Run a command; its exit code must be `code`, and there is never a traceback."""
        words, environment = [os.fspath(argument) for argument in arguments], self.environment(**extra)
        if self.program is None:
            done = self.server.run(words, self.cwd, environment)
        else:
            done = subprocess.run([*self.program, *words], capture_output=True, cwd=self.cwd, env=environment)
        assert done.returncode == code, (done.returncode, done.stderr)
        assert b"Traceback" not in done.stderr
        if text:
            done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done

    def by(self, *program):
        """The same by another program."""
        return replace(self, program=program)

    def over(self, library):
        """The same over another library."""
        return replace(self, library=library)

    def error(self, *arguments, code, **extra):
        """The sentence that a failing command says."""
        done = self(*arguments, code=code, **extra)
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1
        return done.stderr.removeprefix("Error: ").rstrip("\n")

    def start(self, *arguments, **extra):
        """A command that goes on while the test does."""
        return subprocess.Popen(
            [*(self.program or FAKE), *map(os.fspath, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.cwd,
            env=self.environment(**extra),
        )


def make_photos(root):
    """Red, orange, green and blue, dated 2019 to 2022."""
    colours = {"red": (255, 0, 0), "orange": (255, 128, 0), "green": (0, 255, 0), "sea/blue": (0, 0, 255)}
    for year, (name, colour) in enumerate(colours.items(), 2019):
        file = fakes.write(root / f"{name}.png", colour)
        seconds = (year - 1970) * 31_556_952 + 15_000_000  # in June
        os.utime(file, (seconds, seconds))
    return root


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def indexed(server):
    """Make a library of `photos` in a folder; gives its commands."""

    def make(folder):
        commands = Commands(server, folder / "library", folder)
        commands("index", make_photos(folder / "photos"))
        return commands

    return make


@pytest.fixture
def commands(server, tmp_path):
    return Commands(server, tmp_path / "library", tmp_path)


@pytest.fixture
def real(commands, tiny_model):
    """Commands as a user has them, with a model of random weights."""
    return commands.by(sys.executable, "-m", "clipsearch")


@pytest.fixture
def library(commands, photos):
    """Commands over a library of `photos`."""
    commands("index", photos)
    return commands


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of models with one of random weights, small as can be."""
    import torch

    from clipsearch.model import Clip, ClipConfig, TextConfig, VisionConfig
    from clipsearch.preprocess import Preprocess
    from clipsearch.tokenizer import ClipTokenizer
    from clipsearch.weights import save_folder

    torch.manual_seed(0)
    tokenizer = ClipTokenizer.train(["a dog on a beach", "a red flower"], 514, 8)
    vision = VisionConfig(image_size=32, layers=1, width=64, patch_size=16)
    text = TextConfig(context_length=8, vocab_size=tokenizer.vocab_size, width=64, heads=1, layers=1)
    folder = tmp_path_factory.mktemp("models")
    config = ClipConfig(embed_dim=16, vision=vision, text=text)
    save_folder(folder / "tiny", Clip(config), Preprocess(32), tokenizer)
    return folder
