"""A page on loopback."""

from __future__ import annotations

import json
import socket
import struct
import threading
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from prunnet_hf.export.page.server import address, serving


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<title>A page</title>")
    (folder / "page.json").write_text(json.dumps({"format": "prunnet-page"}))
    (folder / "a.mjs").write_text("")
    (folder / "a.wasm").write_text("")
    return folder


def test_files_have_the_types_that_browsers_ask_for(page: Path) -> None:
    with serving(page, 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert address(server).startswith("http://127.0.0.1:")
        types = {}
        for name in ("", "a.mjs", "a.wasm"):
            with urlopen(address(server) + name, timeout=30) as answer:
                types[name] = answer.headers["Content-Type"]
                assert answer.headers["Cache-Control"] == "no-cache"
        with pytest.raises(HTTPError, match="404"):
            urlopen(address(server) + "missing", timeout=30)
        server.shutdown()
    assert types == {"": "text/html", "a.mjs": "text/javascript", "a.wasm": "application/wasm"}


def test_a_visitor_who_leaves_while_a_file_is_sent_is_nothing_to_report(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (page / "a.wasm").write_bytes(bytes(20_000_000))  # more than the kernel keeps for the visitor
    with serving(page, 0) as server:
        server.daemon_threads = False  # closing the server waits for what it is sending
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as visitor:
            visitor.sendall(b"GET /a.wasm HTTP/1.0\r\n\r\n")
            assert visitor.recv(1)
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave at once
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_a_port_in_use_or_impossible_is_refused(page: Path) -> None:
    with serving(page, 0) as server, pytest.raises(OSError, match=rf"--port {server.server_port} .*0 for any free"):
        serving(page, server.server_port)
    with pytest.raises(ValueError, match=r"--port must be from 0 .*65535; got 65536"):
        serving(page, 65_536)


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be the folder of a page, which prunnet page makes"):
        serving(tmp_path, 0)
