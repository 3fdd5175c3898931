"""What the tests have decoder processes do; a worker imports this by name.

The red value of an image's first pixel says what is to be done with it; the green one of the result is 1
where the worker had loaded anything heavy, and the blue one is the work's own answer.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.preprocess import Preprocess

FINE, CRASH, SLEEP, SPIN, SWELL, INTERRUPT, CRASH_ONCE, SLOW, RAISE, ABORT, HUGE = range(0, 251, 25)
HEAVY = ("torch", "sqlalchemy", "faiss", "streamlit", "typer", "transformers", "pandas")


def corner(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Pixels that cost as little for 1 x 65000 as for any other shape."""
    return np.asarray(image.crop((0, 0, 8, 8)))


@dataclass(frozen=True)
class Hook:
    """Leaves a line with its process id in `log` for each image, then does what the image asks for."""

    log: Path

    def __call__(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        pixels = Preprocess(8).pixels(image).copy()
        with self.log.open("a") as log:
            log.write(f"{os.getpid()}\n")
        pixels[..., 1] = any(name in sys.modules for name in HEAVY)
        pixels[..., 2] = self.act(int(pixels[0, 0, 0]))
        return pixels

    def act(self, order: int) -> int:
        """Do it and answer."""
        if order == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif order == ABORT:
            os.abort()
        elif order == SLEEP:
            time.sleep(600)
        elif order == SPIN:
            while True:
                pass
        elif order == SWELL:
            return len(bytearray(500 << 20)) % 2
        elif order == HUGE:
            return len(bytearray(1100 << 20)) % 2  # a gibibyte, and what the process gave back meanwhile
        elif order == INTERRUPT:
            os.kill(os.getpid(), signal.SIGINT)
            os.killpg(os.getpgid(0), signal.SIGINT)
        elif order == CRASH_ONCE:
            return self.crash_once()
        elif order == SLOW:
            self.slow()
        elif order == RAISE:
            raise ValueError("no such thing")
        return 0

    def crash_once(self) -> int:
        """Crash; the second time, tell how many are at work beside this one."""
        crashed = self.log.with_suffix(".crashed")
        if not crashed.exists():
            crashed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(list(self.log.parent.glob("busy-*")))

    def slow(self) -> None:
        """Be seen at work for a while."""
        busy = self.log.parent / f"busy-{os.getpid()}"
        busy.touch()
        time.sleep(0.2)
        busy.unlink()
