"""Points the real huggingface_hub client at the Hub of `tests/hub_server.py`, in this process or in another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers.utils.hub
from huggingface_hub import constants
from huggingface_hub.hf_api import api
from huggingface_hub.utils import _http

from tests.hub_server import HubServer

ROOT = Path(__file__).resolve().parent.parent


def use_hub(hub: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client of this process ask `hub`, signed in, with an empty cache in `home`.

    The client reads the environment only once, when it is imported, so what it made of it is set instead. Xet transfer
    is switched off here and nowhere else, as the Hub of the tests can't do it. The client tries again without waiting.
    """
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    settings = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_URL_HOSTS": constants.HF_URL_HOSTS | {"127.0.0.1"},
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "AGENT_HARNESSES_PATH": str(home / "agent_harnesses.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(api, "endpoint", hub.endpoint)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    for name, value in _variables(hub, home).items():
        monkeypatch.setenv(name, value)


def hub_environment(hub: HubServer, home: Path) -> dict[str, str]:
    """The environment of another process that asks `hub`: of this process's only what finds programs."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "SYSTEMROOT") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1", **_variables(hub, home)}


def _variables(hub: HubServer, home: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": hub.token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }


def run_python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter; the caller checks whether it succeeded."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
