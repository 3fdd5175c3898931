"""What Streamlit does at its start that this page is better without, and what it leaves out.

None of it has a setting. Each change looks first whether the thing is still there, so another version of
Streamlit starts more slowly, and not otherwise.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from clipsearch.patience import PatientProtocol, tell_of_too_many_files_once


def hasten() -> None:
    """Change it; before the server is made."""
    from streamlit import delta_generator
    from streamlit.components.v2 import manifest_scanner
    from streamlit.web.server.starlette import starlette_server

    # It reads the metadata of every installed package for components; ours are its own.
    _replace(manifest_scanner, "scan_component_manifests", lambda _scan: list)
    # It searches the stack and its sources for a prompt, to warn of one.
    _replace(delta_generator, "_maybe_print_use_warning", lambda _warn: lambda: None)
    _replace(starlette_server, "_bind_socket", undelayed)


def advertise_nothing() -> None:
    """Leave out what Streamlit tells developers of its own: to let AI agents learn to write Streamlit apps.

    Where such an agent is installed it says so in a box over the page, whose button writes files beside
    this package, and on the terminal. `server.headless` would end that, and opening the browser with it.
    """
    try:
        from streamlit.web import skills
    except ImportError:  # another version of Streamlit
        return
    _replace(skills, "agent_harness_present", lambda _find: lambda: False)  # neither told nor installed
    _replace(skills, "are_skills_installed", lambda _look: lambda: True)  # the terminal's line


def end_waits() -> None:
    """Let connections end that nobody uses, which Streamlit's server keeps for ever; before it is made."""
    from streamlit.web.server.starlette import starlette_server

    def patient(settings: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        return lambda: {**settings(), "http": PatientProtocol}

    _replace(starlette_server, "_get_uvicorn_config_kwargs", patient)
    tell_of_too_many_files_once()


def undelayed(bind: Callable[..., socket.socket]) -> Callable[..., socket.socket]:
    """Let what `bind` listens with send at once.

    Streamlit's socket does not name TCP as its protocol, so asyncio leaves Nagle's algorithm on: the body of
    an answer waits until its head is acknowledged, which takes up to 40 ms a file.
    """

    def bound(*arguments: Any, **named: Any) -> socket.socket:
        listener = bind(*arguments, **named)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    return bound


def _replace(module: object, name: str, change: Callable[[Any], Any]) -> None:
    found = getattr(module, name, None)
    if callable(found):
        setattr(module, name, change(found))
