import os
import signal
import subprocess
import sys

import pytest

from clipsearch.cli import main

WHILE_IT_LOADS = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from clipsearch.__main__ import main
main()
"""


def test_ctrl_c_while_it_loads_is_no_traceback():
    done = subprocess.run([sys.executable, "-c", WHILE_IT_LOADS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.fixture
def handlers():
    """The handlers of this process, put back afterwards."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_before_the_command_begins_is_code_130(handlers, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "application", lambda _words: interrupted)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 130


def test_nohup_stays_what_it_is(handlers, monkeypatch):
    monkeypatch.setattr(main, "application", lambda _words: lambda: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main.run()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


WHILE_A_COMMAND_LOADS = """
import os, sys, weakref

class Swallowing:
    def __call__(self, _reference):
        os.kill(os.getpid(), int(sys.argv[1]))

class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "clipsearch.config":
            thing = set()
            self.kept = weakref.ref(thing, Swallowing())
            del thing  # Python prints what a callback raises, and goes on

from clipsearch.cli import main
sys.modules.pop("clipsearch.config")
sys.meta_path.insert(0, Interrupting())

def command():
    import clipsearch.config
    print("went on")

main.application = lambda _words: command
main.run()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_command_loads_is_neither_lost_nor_a_traceback(number):
    """Raised as an exception where the import system runs a callback it would only be printed."""
    program = [sys.executable, "-c", WHILE_A_COMMAND_LOADS, str(int(number))]
    done = subprocess.run(program, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")


CLOSED = """
import os, sys
from clipsearch.__main__ import open_streams
open_streams()
print("nowhere")
print("nowhere", file=sys.stderr)
sys.exit([os.path.realpath(f"/proc/self/fd/{number}") for number in range(3)] != ["/dev/null"] * 3)
"""


def test_no_file_gets_the_number_of_a_stream_that_came_closed():
    done = subprocess.run([sys.executable, "-c", CLOSED], check=False, preexec_fn=lambda: os.closerange(0, 3))
    assert done.returncode == 0
