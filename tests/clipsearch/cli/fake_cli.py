"""The command line with the encoder of `fakes` in the place of a model, so that it starts without torch.

With FAKE_PAUSE, the seconds that a batch takes, it says `embedded` on standard error before each; FAKE_COMMIT
are the seconds between commits, FAKE_PATIENCE those for which a server waits for a client, FAKE_DIM how many
numbers an embedding has; with FAKE_SERIAL there are no decoder processes. `--serve` does the commands that
come on standard input, decoding by itself.
"""

import gc
import importlib
import json
import os
import sys
import time
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fakes

import clipsearch.api
from clipsearch.cli.main import run
from clipsearch.errors import ModelNotFound
from clipsearch_indexer import decode as indexer_decode
from clipsearch_indexer import run as indexer_run

assert clipsearch.api  # loaded before the first fork


class Encoder(fakes.ColourEncoder):
    def encode_pixels(self, pixels_NYXC):
        if "FAKE_PAUSE" in os.environ:
            sys.stderr.write("embedded\n")
            sys.stderr.flush()
            time.sleep(float(os.environ["FAKE_PAUSE"]))
        return super().encode_pixels(pixels_NYXC)


def load_model(name=None, *, device=None):
    stem = Path(name or "colours").name
    if stem not in os.environ.get("FAKE_MODELS", "colours others").split():
        raise ModelNotFound(f"There is no model {stem}.")
    return Encoder(stem, dim=int(os.environ.get("FAKE_DIM", "3")))


def serve():
    """Do commands as they come, each in a process of its own, without the second that the imports take."""
    for name in ("embeddings", "engine", "failures", "files", "images"):  # what is built with SQLAlchemy
        importlib.import_module(f"clipsearch.store.{name}")
    gc.freeze()  # a child has nothing of it to look through
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.chdir(order["cwd"])
            os.environ.clear()
            os.environ.update(order["environment"])
            sys.argv[1:] = order["arguments"]
            for descriptor, name in ((0, os.devnull), (1, order["out"]), (2, order["err"])):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), descriptor)
            indexer_decode.DecodePool = fakes.SerialPool
            return True
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()
    return False


if __name__ == "__main__":
    stand_in = types.ModuleType("clipsearch.encoder")
    stand_in.load_model = load_model
    sys.modules["clipsearch.encoder"] = stand_in
    if sys.argv[1:] != ["--serve"] or serve():
        if "FAKE_SERIAL" in os.environ:
            indexer_decode.DecodePool = fakes.SerialPool
        indexer_run.COMMIT_SECONDS = float(os.environ.get("FAKE_COMMIT", "5"))
        if "FAKE_PATIENCE" in os.environ:
            from clipsearch import patience

            patience.SECONDS = dict.fromkeys(patience.SECONDS, float(os.environ["FAKE_PATIENCE"]))
        run()
