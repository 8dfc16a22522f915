"""Fetching traces, from a server of our own that breaks off, forgets ranges and lies."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import traces.download
from experiments.cli import main as pagesim
from tests.shared import SHARED, needs_shared
from traces.datasets import Dataset, cache_folder, load_datasets
from traces.download import DownloadError, checksum, download

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at any path; what is set here, it does wrong."""

    daemon_threads = True
    content = CONTENT
    breaks_after: int | None = None
    """Bytes of a body after which the connection closes."""
    knows_ranges = True
    says_length = True
    shifts_ranges_by = 0
    status = 200
    asked: list[str | None]
    """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data/trace.csv"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        server.asked.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        if server.knows_ranges and (
            match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        ):
            start = int(match[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += server.shifts_ranges_by
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.says_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        """Not to the screen."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def kept(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "folder" / "t"
    download(server.url, path, sha256=SHA256, watch=lambda *at: seen.append(at))
    assert path.read_bytes() == CONTENT
    assert kept(path.parent) == {"t": len(CONTENT)}
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 300_000
    with pytest.raises(DownloadError, match=r"300,000 bytes are kept in .*t\.part: the same comm"):
        download(server.url, tmp_path / "t", sha256=SHA256)
    assert kept(tmp_path) == {"t.part": 300_000}
    server.breaks_after = None
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert server.asked == [None, "bytes=300000-"]
    assert (tmp_path / "t").read_bytes() == CONTENT
    assert kept(tmp_path) == {"t": len(CONTENT)}


def test_ctrl_c_leaves_what_has_arrived(server: Server, tmp_path: Path) -> None:
    def stop(there: int, total: int | None) -> None:
        if there > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.url, tmp_path / "t", sha256=SHA256, watch=stop)
    assert 500_000 < kept(tmp_path)["t.part"] < len(CONTENT)
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert server.asked[1] is not None
    assert (tmp_path / "t").read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["knows_ranges", "shifts_ranges_by"])
def test_a_server_without_proper_ranges_starts_over(
    fault: str, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "t.part").write_bytes(CONTENT[:1000])
    setattr(server, fault, False if fault == "knows_ranges" else 7)
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert (tmp_path / "t").read_bytes() == CONTENT


def test_a_part_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "t.part").write_bytes(b"x" * 1000)
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert (tmp_path / "t").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_a_complete_part_needs_only_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "t.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert server.asked == [f"bytes={len(CONTENT)}-"]
    assert kept(tmp_path) == {"t": len(CONTENT)}


def test_a_part_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / "t.part").write_bytes(CONTENT + b"more")
    download(server.url, tmp_path / "t", sha256=SHA256)
    assert (tmp_path / "t").read_bytes() == CONTENT


def test_a_wrong_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"version https://git-lfs.github.com/spec/v1\n"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(DownloadError, match=f"found a file with sha256 {found}; allowed: {SHA256}"):
        download(server.url, tmp_path / "t", sha256=SHA256)
    assert kept(tmp_path) == {}


def test_a_cut_without_a_length_is_a_wrong_file(server: Server, tmp_path: Path) -> None:
    server.says_length, server.breaks_after = False, 1000
    with pytest.raises(DownloadError, match="allowed: " + SHA256):
        download(server.url, tmp_path / "t", sha256=SHA256)
    assert kept(tmp_path) == {}


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (500, "Internal Server Error")])
def test_a_refusal_is_named(status: int, reason: str, server: Server, tmp_path: Path) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=rf"trace\.csv: the server says {status} {reason}"):
        download(server.url, tmp_path / "t", sha256=SHA256)
    assert kept(tmp_path) == {}


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/t"
        with pytest.raises(DownloadError, match="Connection refused"):
            download(url, tmp_path / "t", sha256=SHA256)


def test_silence_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces.download, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/t"
        with pytest.raises(DownloadError, match="timed out"):
            download(url, tmp_path / "t", sha256=SHA256)


def fetch(*words: object) -> Result:
    return CliRunner().invoke(pagesim, ["trace", "fetch", *map(str, words)])


@pytest.fixture
def local(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server as the only source there is, and a cache folder of the test's own."""
    dataset = Dataset(
        name="ours",
        url=server.url,
        sha256=SHA256,
        checksum_source="computed",
        size_bytes=None,
        licence="CC0-1.0",
        citation="Nobody, 2026",
        format="azure",
        about="a file",
        config="configs/azure-conv.yaml",
    )
    monkeypatch.setattr("traces.datasets.load_datasets", lambda: {"ours": dataset})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return server


def test_the_command_says_what_to_do_next(local: Server, tmp_path: Path) -> None:
    done = fetch("ours")
    path = tmp_path / "cache" / "pagesim" / "traces" / "trace.csv"
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == CONTENT
    assert (
        f"python -m experiments.run configs/azure-conv.yaml --set trace.path={path}\n"
        in done.output
    )
    assert f"pagesim trace inspect {path}\n" in done.output
    assert "CC0-1.0; Nobody, 2026" in done.output
    again = fetch("ours")
    assert "It was fetched before" in again.output
    assert local.asked == [None]


def test_a_file_of_the_user_is_not_overwritten(local: Server, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("mine")
    done = fetch("ours", "--to", tmp_path)
    assert done.exit_code == 2
    assert "move it away, or fetch elsewhere with --to DIR" in done.output
    assert (tmp_path / "trace.csv").read_text() == "mine"
    assert local.asked == []


def test_a_place_where_nothing_can_be_kept_is_named(local: Server, tmp_path: Path) -> None:
    (tmp_path / "taken" / "trace.csv").mkdir(parents=True)
    done = fetch("ours", "--to", tmp_path / "taken")
    assert done.exit_code == 2
    assert f"{tmp_path / 'taken' / 'trace.csv'}: Is a directory; allowed: a file" in done.output
    (tmp_path / "file").write_text("mine")
    done = fetch("ours", "--to", tmp_path / "file")
    assert done.exit_code == 2
    assert done.output == f"Error: {tmp_path / 'file'}: no folder to fetch to (File exists)\n"
    assert local.asked == []


def test_a_failure_is_one_message(local: Server) -> None:
    local.status = 404
    done = fetch("ours")
    assert done.exit_code == 2
    assert done.output.startswith(f"Error: {local.url}: the server says 404")


def test_an_unknown_name_lists_the_known_ones() -> None:
    done = fetch("azure-conv")
    assert done.exit_code == 2
    assert "unknown trace 'azure-conv'; did you mean azure-2023-conv" in done.output


def test_the_list_names_size_licence_and_citation() -> None:
    done = fetch("--list")
    assert done.exit_code == 0
    printed = " ".join(done.output.split())
    assert "mooncake-conversation 3.0 mooncake Apache-2.0" in printed
    assert "azure-2023-conv, azure-2023-code: Patel et al., Splitwise, ISCA 2024" in printed


def test_every_entry_is_pinned() -> None:
    for dataset in load_datasets().values():
        assert re.fullmatch("[0-9a-f]{64}", dataset.sha256), dataset.name
        assert re.search(r"/[0-9a-f]{40}/|/releases/download/v", dataset.url), dataset.name
        assert dataset.url.startswith("https://")
        if dataset.config is not None:
            assert (Path(__file__).parents[1] / dataset.config).is_file()
    assert len({dataset.sha256 for dataset in load_datasets().values()}) == len(load_datasets())
    assert len({dataset.filename for dataset in load_datasets().values()}) == len(load_datasets())


@needs_shared
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("azure-2023-conv", "azure-2023/AzureLLMInferenceTrace_conv.csv"),
        ("azure-2023-code", "azure-2023/AzureLLMInferenceTrace_code.csv"),
        ("sharegpt-lengths", "sharegpt-lengths/sharegpt.csv"),
    ],
)
def test_checksums_and_sizes_are_those_of_the_files_we_have(name: str, file: str) -> None:
    path = SHARED / "traces" / file
    dataset = load_datasets()[name]
    assert (dataset.sha256, dataset.size_bytes) == (checksum(path), path.stat().st_size)


@needs_shared
def test_the_checksum_of_mooncake_is_that_of_the_unzipped_file() -> None:
    import gzip

    path = SHARED / "traces" / "mooncake" / "conversation_trace.jsonl.gz"
    content = gzip.decompress(path.read_bytes())
    dataset = load_datasets()["mooncake-conversation"]
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()
    assert dataset.size_bytes == len(content)


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({"XDG_CACHE_HOME": "/c"}, "darwin", Path("/c")),
        ({}, "linux", Path.home() / ".cache"),
        ({}, "darwin", Path.home() / "Library" / "Caches"),
        ({"LOCALAPPDATA": "/local"}, "win32", Path("/local")),
    ],
)
def test_the_cache_is_where_the_platform_has_it(
    environment: dict[str, str], platform: str, folder: Path
) -> None:
    assert cache_folder(environment, platform=platform) == folder / "pagesim" / "traces"
