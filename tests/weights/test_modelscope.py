"""Downloads from a ModelScope hub, against one that runs in this process."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from quire.errors import ModelError
from quire.weights import modelscope
from quire.weights.hub import resolve_model

pytest.importorskip("huggingface_hub")

FILES = {
    "config.json": b'{"model_type": "qwen2"}',
    "model.safetensors": os.urandom(3_000_000),
    "tokenizer.json": b"{}",
    "merges.txt": b"",
    "1_Pooling/config.json": b'{"pooling_mode_cls_token": true}',
    "README.md": b"# never downloaded",
    "pytorch_model.bin": b"never downloaded beside safetensors",
}
USED = {name: FILES[name] for name in FILES if name not in ("README.md", "pytorch_model.bin")}


class Hub(ThreadingHTTPServer):
    """The two endpoints; weights are redirected to another host name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"
        self.files = {"master": dict(FILES), "v2": FILES | {"config.json": b'{"v": 2}'}}
        self.log: list[tuple[str, str | None, str | None]] = []  # file, Range, Authorization
        self.fields = ("Path", "Size", "Sha256", "Type")
        self.extra: list[dict[str, Any]] = [{"Path": "figures", "Type": "tree"}]
        self.listing: bytes | None = None
        self.broken = 0  # answer so many requests with 503
        self.cut_after: list[int] = []  # close the next connections after so many bytes
        self.damaged = False
        self.ranges = True


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", size: int | None = None, **more: str) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        hub = self.server
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        revision, name = query.get("Revision", ""), query.get("FilePath", "")
        authorization = self.headers.get("Authorization")
        hub.log.append((name, self.headers.get("Range"), authorization))
        if hub.broken:
            hub.broken -= 1
            return self.reply(503)
        if "/org/gated/" in url.path and authorization != "Bearer good":
            return self.reply(403)
        if "/org/refused/" in url.path:
            return self.reply(200, b'{"Success": false, "Message": "no such model", "Data": null}')
        if "/org/absent/" in url.path or revision not in hub.files:
            return self.reply(404, b'{"Code": 10010205001, "Success": false}')
        if url.path.endswith("/repo/files"):
            return self.reply(200, self.listing(revision))
        if name.endswith(".safetensors") and url.path.startswith("/api"):
            return self.reply(302, Location=f"{hub.storage}/storage?{url.query}")
        self.send_bytes(hub.files[revision][name])

    def listing(self, revision: str) -> bytes:
        if self.server.listing is not None:
            return self.server.listing
        entries = [
            {
                "Path": name,
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
                "Type": "blob",
            }
            for name, content in self.server.files[revision].items()
        ]
        kept = [{key: entry[key] for key in self.server.fields} for entry in entries]
        return json.dumps({"Code": 200, "Data": {"Files": kept + self.server.extra}}).encode()

    def send_bytes(self, content: bytes) -> None:
        if self.server.damaged:
            content = bytes(len(content))
        wanted = self.headers.get("Range") if self.server.ranges else None
        start = int((wanted or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = content[start:]
        cut = len(part)
        if self.server.cut_after and cut > self.server.cut_after[0]:
            cut = self.server.cut_after.pop(0)
        self.close_connection = True
        self.reply(206 if wanted else 200, part[:cut], len(part))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(modelscope, "FIRST_PAUSE_S", 0.001)
    yield server
    server.shutdown()
    server.server_close()


def resolve(cache: Path, model: str = "org/model", **options: Any) -> Path:
    return resolve_model(model, source="modelscope", cache_dir=cache, **options)


def contents(directory: Path) -> dict[str, bytes]:
    found = [path for path in directory.rglob("[!.]*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in found}


def fetched(hub: Hub) -> list[str]:
    return sorted({name for name, _, _ in hub.log if name})


def test_everything_that_is_used_arrives_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    directory = resolve(tmp_path)
    assert contents(directory) == USED
    assert not list(directory.glob(".*.part"))


def test_a_second_run_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    first = resolve(tmp_path)
    hub.log.clear()
    assert resolve(tmp_path) == first
    assert [name for name, _, _ in hub.log] == [""]


def test_a_file_that_changed_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    resolve(tmp_path)
    hub.log.clear()
    hub.files["master"]["config.json"] = b'{"model_type": "qwen3"}'
    assert (resolve(tmp_path) / "config.json").read_bytes() == b'{"model_type": "qwen3"}'
    assert fetched(hub) == ["config.json"]


def test_offline_uses_the_cache_and_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"org/model: not in .*run once online"):
        resolve(tmp_path, offline=True)
    directory = resolve(tmp_path)
    hub.log.clear()
    assert resolve(tmp_path, offline=True) == directory
    assert hub.log == []
    (directory / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="run once online"):
        resolve(tmp_path, offline=True)


def test_revisions_are_kept_apart(hub: Hub, tmp_path: Path) -> None:
    master, second = resolve(tmp_path), resolve(tmp_path, revision="v2")
    assert (master / "config.json").read_bytes() == FILES["config.json"]
    assert (second / "config.json").read_bytes() == b'{"v": 2}'


@pytest.mark.parametrize("revision", ["..", "../../x", "/etc", "."])
def test_a_revision_cannot_leave_the_cache(hub: Hub, tmp_path: Path, revision: str) -> None:
    hub.files[revision] = FILES
    directory = resolve(tmp_path / "cache", revision=revision)
    assert directory.resolve().parent == (tmp_path / "cache").resolve()


def test_what_is_not_there_says_check_the_spelling(hub: Hub, tmp_path: Path) -> None:
    for model in ("org/absent", "org/refused"):
        with pytest.raises(ModelError, match=rf"{model}: no such model on .*spelling"):
            resolve(tmp_path, model)
    with pytest.raises(ModelError, match="no revision 'v9'"):
        resolve(tmp_path, revision="v9")


def test_a_gated_model_needs_a_token_that_storage_hosts_never_see(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"private or gated.*pass a token"):
        resolve(tmp_path, "org/gated")
    hub.log.clear()
    assert contents(resolve(tmp_path, "org/gated", token="good")) == USED
    weights = [seen for name, _, seen in hub.log if name == "model.safetensors"]
    assert weights == ["Bearer good", None]  # the hub, then where it redirects to


def test_a_connection_that_is_cut_is_continued_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [1_000_000, 500_000]
    assert contents(resolve(tmp_path)) == USED
    ranges = [asked for name, asked, _ in hub.log if name == "model.safetensors"]
    assert set(ranges) == {None, "bytes=1000000-", "bytes=1500000-"}


def test_the_next_run_continues_what_this_one_could_not_finish(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [200_000] * modelscope.ATTEMPTS
    with pytest.raises(ModelError, match=r"cut off at byte 800000.*what has arrived is kept"):
        resolve(tmp_path)
    hub.log.clear()
    assert contents(resolve(tmp_path)) == USED
    asked = {wanted for name, wanted, _ in hub.log if name == "model.safetensors"}
    assert asked == {"bytes=800000-"}
    assert "config.json" not in fetched(hub)


def test_a_hub_that_ignores_ranges_starts_over(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after, hub.ranges = [1_000_000], False
    assert contents(resolve(tmp_path)) == USED


def test_a_part_of_another_version_is_not_continued(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [200_000] * modelscope.ATTEMPTS
    with pytest.raises(ModelError):
        resolve(tmp_path)
    hub.files["master"]["model.safetensors"] = os.urandom(3_000_000)
    assert (resolve(tmp_path) / "model.safetensors").read_bytes() == (
        hub.files["master"]["model.safetensors"]
    )


def test_a_broken_update_leaves_the_old_snapshot_whole(hub: Hub, tmp_path: Path) -> None:
    directory = resolve(tmp_path)
    hub.files["master"]["config.json"] = b'{"model_type": "qwen3"}'  # of the same size
    hub.files["master"]["model.safetensors"] = os.urandom(3_000_000)
    hub.cut_after = [200_000] * modelscope.ATTEMPTS
    assert resolve(tmp_path) == directory
    assert contents(directory) == USED
    assert contents(resolve(tmp_path)) == USED | {
        name: hub.files["master"][name] for name in ("config.json", "model.safetensors")
    }


def test_damaged_bytes_are_noticed_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    with pytest.raises(ModelError, match=r"config\.json arrived with another size or SHA-256"):
        resolve(tmp_path)
    hub.damaged = False
    assert contents(resolve(tmp_path)) == USED


def test_a_listing_without_sizes_and_digests_is_enough(hub: Hub, tmp_path: Path) -> None:
    hub.fields = ("Path",)
    hub.cut_after = [1_000_000]
    assert contents(resolve(tmp_path)) == USED
    hub.log.clear()
    assert contents(resolve(tmp_path)) == USED
    assert fetched(hub) == []


def test_without_a_digest_nothing_is_continued(hub: Hub, tmp_path: Path) -> None:
    hub.fields = ("Path",)
    hub.cut_after = [200_000] * modelscope.ATTEMPTS
    with pytest.raises(ModelError):
        resolve(tmp_path)
    hub.files["master"]["model.safetensors"] = os.urandom(100_000)
    assert (resolve(tmp_path) / "model.safetensors").read_bytes() == (
        hub.files["master"]["model.safetensors"]
    )


def test_a_short_outage_is_waited_out_and_a_long_one_reported(hub: Hub, tmp_path: Path) -> None:
    hub.broken = 100
    with pytest.raises(ModelError, match=r"cannot be downloaded.*HTTP 503.*MODELSCOPE_ENDPOINT"):
        resolve(tmp_path)
    hub.broken = 0
    resolve(tmp_path)


def test_the_cache_serves_while_the_hub_is_away(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = resolve(tmp_path)
    hub.broken = 100
    assert resolve(tmp_path) == directory
    assert "cached copy" in caplog.text


def test_no_network_is_reported(hub: Hub, tmp_path: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ModelError, match=r"cannot be downloaded.*check the network"):
        resolve(tmp_path)


def test_an_endpoint_without_a_scheme_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "modelscope.example")
    with pytest.raises(ModelError, match="MODELSCOPE_ENDPOINT"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    "listing", [b"", b"<html>", b"[]", b'{"Data": []}', b'{"Data": {"Files": [{}]}}', b'"x"']
)
def test_an_answer_that_is_no_listing_is_reported(hub: Hub, tmp_path: Path, listing: bytes) -> None:
    hub.listing = listing
    with pytest.raises(ModelError, match="not a listing"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["../evil.json", "/evil.json", "..", "a\\b.json", "C:x.json"])
def test_a_listed_name_cannot_leave_the_directory(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.extra = [{"Path": name, "Size": 1, "Sha256": "", "Type": "blob"}]
    assert contents(resolve(tmp_path / "cache")) == USED
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_runs_at_the_same_time_download_once(hub: Hub, tmp_path: Path) -> None:
    threads = [threading.Thread(target=resolve, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(resolve(tmp_path)) == USED
    assert [name for name, _, _ in hub.log].count("config.json") == 1


def test_a_cache_that_cannot_be_written_is_reported(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be stored"):
        resolve(tmp_path / "file")
