"""Local folders and URLs behave alike as locations of results."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

from lopt import locations
from lopt.locations import (
    check_can_replace,
    display_path,
    local_copy,
    move_folder,
    read_bytes_between,
    read_files,
    redact_secrets,
    remove_folder,
    to_location,
    write_file,
)


class Server(LocalFileSystem):
    """A file server with a password and its own rename, as SFTP or WebHDFS: `server://me:pw@host/folder`.

    `existing` says what a rename does with a file that exists: it is "replaced", "kept" or "refused".
    """

    protocol = "server"
    existing = "replaced"
    active_calls, most_active_calls = 0, 0  # of `info`

    def __init__(self, username="", password="", host="", **options):
        if password != "pw":
            raise ValueError("no authentication")
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path):
        return fsspec.utils.infer_storage_options(str(path))["path"]

    @staticmethod
    def _get_kwargs_from_urls(path):
        options = fsspec.utils.infer_storage_options(path)
        return {name: options[name] for name in ("username", "password", "host") if name in options}

    def info(self, path, **options):
        Server.active_calls += 1
        Server.most_active_calls = max(Server.active_calls, Server.most_active_calls)
        time.sleep(0.01)
        Server.active_calls -= 1
        return super().info(path, **options)

    def mv(self, path1, path2):
        if Path(path2).exists() and self.existing == "refused":
            raise OSError("file exists")
        if not Path(path2).exists() or self.existing == "replaced":
            Path(path1).rename(path2)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(locations, "_filesystem_by_host", {})
    fsspec.register_implementation("server", Server, clobber=True)
    yield f"server://me:pw@host{tmp_path}"
    _registry.pop("server")


def test_files_on_a_server_are_replaced_and_moved(server, tmp_path):
    folder = to_location(server) / "run"
    check_can_replace(folder)
    assert list(folder.glob("*")) == []
    write_file(folder / "a", b"1")
    write_file(folder / "a", b"2")
    assert (tmp_path / "run" / "a").read_bytes() == b"2"
    move_folder(folder, to_location(server) / "aside")
    assert (to_location(server) / "aside" / "a").read_bytes() == b"2"


@pytest.mark.parametrize("existing", ["kept", "refused"])
def test_a_server_that_cannot_replace_a_file_is_refused(server, monkeypatch, existing):
    monkeypatch.setattr(Server, "existing", existing)
    with pytest.raises(ValueError, match=r"server://host/.*: a file there cannot be replaced by renaming"):
        check_can_replace(to_location(server) / "run")


def test_only_one_thread_at_a_time_calls_a_server(server, monkeypatch):
    monkeypatch.setattr(Server, "most_active_calls", 0)
    file = to_location(server) / "a"
    write_file(file, b"1")
    threads = [threading.Thread(target=file.exists) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Server.most_active_calls == 1


def test_the_displayed_form_of_a_url_with_a_password_names_the_same_location_afterwards(server, tmp_path):
    displayed = server.replace("me:pw@", "")
    with pytest.raises(ValueError, match="no authentication"):
        to_location(displayed)
    write_file(to_location(server) / "a", b"1")
    assert str(to_location(server)) == displayed
    assert to_location(displayed) == to_location(server)
    assert (to_location(displayed) / "a").read_bytes() == b"1"


def test_files_are_written_read_listed_renamed_and_removed(anywhere):
    folder = to_location(anywhere) / "run"
    file = folder / "trials" / "a.json"
    assert not file.exists()
    assert list((folder / "trials").glob("*")) == []
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_file(file, b"one")
    write_file(file, b"two")
    write_file(folder / "trials" / "b.txt", "ü".encode())
    assert file.read_bytes() == b"two" and file.is_file() and not folder.is_file()
    assert (folder / "trials" / "b.txt").read_text(encoding="utf-8") == "ü"
    assert [entry.name for entry in (folder / "trials").glob("*.json")] == ["a.json"]
    assert sorted(entry.name for entry in (folder / "trials").glob("*")) == ["a.json", "b.txt"]
    file.rename(file.with_name("c.json"))
    assert not file.exists()
    assert [content for _, content in read_files(list((folder / "trials").glob("*.json")))] == [b"two"]
    file.unlink(missing_ok=True)
    file.with_name("c.json").unlink()
    remove_folder(folder / "trials")
    remove_folder(folder / "trials")
    assert list((folder / "trials").glob("*")) == []


def test_a_part_of_a_file_is_read(anywhere):
    file = to_location(anywhere) / "run" / "a"
    write_file(file, bytes(range(100)))
    assert read_bytes_between(file, 10, 20) == bytes(range(10, 20))
    assert read_bytes_between(file, 90, 200) == bytes(range(90, 100))


def test_files_that_others_write_are_seen_at_once(anywhere):
    file, same = to_location(anywhere) / "run" / "a", to_location(anywhere) / "run" / "a"
    assert not same.exists() and list(same.parent.glob("*")) == []
    write_file(file, b"1")
    assert same.exists() and [entry.name for entry in same.parent.glob("*")] == ["a"]


def test_a_file_that_is_removed_after_listing_is_yielded_with_its_error(anywhere):
    folder = to_location(anywhere) / "run"
    for name in "ab":
        write_file(folder / name, name.encode())
    files = sorted(folder.glob("*"), key=lambda file: file.name)
    files[0].unlink()
    (_, error), (_, content) = read_files(files)
    assert isinstance(error, FileNotFoundError) and content == b"b"


def test_a_failed_write_keeps_the_old_file(url, monkeypatch):
    file = to_location(url) / "run" / "a"
    write_file(file, b"old")

    def fail(*args, **kwargs):
        raise ConnectionError("cable cut")

    with monkeypatch.context() as patch:
        request = "_call_s3" if url.startswith("s3") else "pipe_file"
        patch.setattr(type(file.filesystem), request, fail)
        with pytest.raises(OSError, match="cable cut"):
            write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in file.parent.glob("*")] == ["a"]


def test_a_file_system_without_atomic_puts_renames_a_temporary_file(monkeypatch):
    file = to_location("memory://whole-or-not") / "a"
    monkeypatch.setattr(locations, "_OBJECT_STORE_PROTOCOLS", set())
    write_file(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(type(file.filesystem), "mv", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            write_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in file.parent.glob("*")] == ["a"]
    write_file(file, b"new")
    assert file.read_bytes() == b"new"


def test_only_one_of_several_threads_creates_a_file(url):
    file, start, results = to_location(url) / "lock", threading.Barrier(4), []

    def create(number):
        start.wait()
        results.append((file.create(str(number).encode()), number))

    threads = [threading.Thread(target=create, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for was_created, number in results if was_created]
    assert file.read_bytes() == str(winner).encode()


def test_a_local_copy_holds_the_same_files(anywhere):
    folder = to_location(anywhere) / "artifact"
    write_file(folder / "a", b"1")
    write_file(folder / "b", b"2")
    with local_copy(folder) as copy:
        assert {file.name: file.read_bytes() for file in copy.iterdir()} == {"a": b"1", "b": b"2"}
    with local_copy(folder / "a") as copy:
        assert isinstance(copy, Path) and copy.read_bytes() == b"1"


def test_an_unusable_url_is_refused_in_one_line():
    for url in ("s3://", "nothing://x", "s3://bucket/../other", "simplecache://a::memory://b", "memory://a::b"):
        with pytest.raises(ValueError) as caught:
            to_location(url)
        assert len(str(caught.value).splitlines()) == 1


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'lopt-sweep\[s3\]'"):
        to_location("s3://bucket/results")


def test_folders_and_file_urls_become_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert to_location(f"file://{tmp_path}/a") == tmp_path / "a"
    assert display_path(tmp_path / "a" / "b") == display_path(Path("a/b")) == "a/b"
    assert display_path(to_location("memory://x/y")) == "memory://x/y"


def test_an_unreachable_store_raises_and_does_not_look_empty(s3, monkeypatch):
    file = to_location(f"{s3}-gone") / "manifest.json"
    with pytest.raises(OSError):
        file.write_bytes(b"")

    async def refuse(*args, **kwargs):
        raise ConnectionRefusedError("no route")

    monkeypatch.setattr(type(file.filesystem), "_call_s3", refuse)
    for call in (file.is_file, file.read_bytes, lambda: file.parent.glob("*")):
        with pytest.raises(OSError, match="no route"):
            call()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sftp://me:pass@word@host/results", "sftp://host/results"),
        ("https://host/a?X-Amz-Signature=abc said", "https://host/a said"),
        ("abfs://container@account/results", "abfs://container@account/results"),
        ("token=abc", "token=***"),
        ("--set=HF_TOKEN=a b", "--set=HF_TOKEN=***"),
        ("aws_secret_access_key=abc", "aws_secret_access_key=***"),
        ("max_tokens=128", "max_tokens=128"),
    ],
)
def test_secrets_are_redacted(text, expected):
    assert redact_secrets(text) == expected
