"""Folders and URLs are the same to whoever keeps results there."""

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
    check_replaces,
    display_path,
    local_copy,
    location,
    move,
    read_files,
    read_part,
    redacted,
    remove_all,
    write,
)


class Server(LocalFileSystem):
    """Files of a server with a password and a rename of its own, as of SFTP or WebHDFS: `server://me:pw@host/folder`."""

    protocol = "server"
    existing = "replaced"
    asked, most_asked = 0, 0  # by how many threads at once

    def __init__(self, username="", password="", host="", **given):
        if password != "pw":
            raise ValueError("no authentication")
        super().__init__(**given)

    @classmethod
    def _strip_protocol(cls, path):
        return fsspec.utils.infer_storage_options(str(path))["path"]

    @staticmethod
    def _get_kwargs_from_urls(path):
        found = fsspec.utils.infer_storage_options(path)
        return {name: found[name] for name in ("username", "password", "host") if name in found}

    def info(self, path, **given):
        Server.asked += 1
        Server.most_asked = max(Server.asked, Server.most_asked)
        time.sleep(0.01)
        Server.asked -= 1
        return super().info(path, **given)

    def mv(self, path1, path2):
        if Path(path2).exists() and self.existing == "refused":
            raise OSError("file exists")
        if not Path(path2).exists() or self.existing == "replaced":
            Path(path1).rename(path2)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(locations, "_opened", {})
    fsspec.register_implementation("server", Server, clobber=True)
    yield f"server://me:pw@host{tmp_path}"
    _registry.pop("server")


def test_a_server_with_a_rename_of_its_own(server, tmp_path):
    folder = location(server) / "run"
    check_replaces(folder)
    assert list(folder.glob("*")) == []
    write(folder / "a", b"1")
    write(folder / "a", b"2")
    assert (tmp_path / "run" / "a").read_bytes() == b"2"
    move(folder, location(server) / "aside")
    assert (location(server) / "aside" / "a").read_bytes() == b"2"


@pytest.mark.parametrize("existing", ["kept", "refused"])
def test_a_server_that_keeps_what_is_to_be_replaced_is_named(server, monkeypatch, existing):
    monkeypatch.setattr(Server, "existing", existing)
    with pytest.raises(ValueError, match=r"server://host/.*: a file there cannot be replaced by renaming"):
        check_replaces(location(server) / "run")


def test_a_server_is_asked_by_one_thread_at_a_time(server, monkeypatch):
    monkeypatch.setattr(Server, "most_asked", 0)
    file = location(server) / "a"
    write(file, b"1")
    threads = [threading.Thread(target=file.exists) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Server.most_asked == 1


def test_what_is_shown_of_a_url_with_a_password_names_its_place_from_then_on(server, tmp_path):
    bare = server.replace("me:pw@", "")
    with pytest.raises(ValueError, match="no authentication"):
        location(bare)
    write(location(server) / "a", b"1")
    assert str(location(server)) == bare
    assert location(bare) == location(server)
    assert (location(bare) / "a").read_bytes() == b"1"


def test_files_are_written_read_listed_renamed_and_removed(anywhere):
    folder = location(anywhere) / "run"
    file = folder / "trials" / "a.json"
    assert not file.exists()
    assert list((folder / "trials").glob("*")) == []
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write(file, b"one")
    write(file, b"two")
    write(folder / "trials" / "b.txt", "ü".encode())
    assert file.read_bytes() == b"two" and file.is_file() and not folder.is_file()
    assert (folder / "trials" / "b.txt").read_text(encoding="utf-8") == "ü"
    assert [found.name for found in (folder / "trials").glob("*.json")] == ["a.json"]
    assert sorted(found.name for found in (folder / "trials").glob("*")) == ["a.json", "b.txt"]
    file.rename(file.with_name("c.json"))
    assert not file.exists()
    assert [content for _, content in read_files(list((folder / "trials").glob("*.json")))] == [b"two"]
    file.unlink(missing_ok=True)
    file.with_name("c.json").unlink()
    remove_all(folder / "trials")
    remove_all(folder / "trials")
    assert list((folder / "trials").glob("*")) == []


def test_a_part_of_a_file(anywhere):
    file = location(anywhere) / "run" / "a"
    write(file, bytes(range(100)))
    assert read_part(file, 10, 20) == bytes(range(10, 20))
    assert read_part(file, 90, 200) == bytes(range(90, 100))


def test_what_others_write_is_seen_at_once(anywhere):
    file, same = location(anywhere) / "run" / "a", location(anywhere) / "run" / "a"
    assert not same.exists() and list(same.parent.glob("*")) == []
    write(file, b"1")
    assert same.exists() and [found.name for found in same.parent.glob("*")] == ["a"]


def test_a_file_that_goes_in_between_is_said(anywhere):
    folder = location(anywhere) / "run"
    for name in "ab":
        write(folder / name, name.encode())
    files = sorted(folder.glob("*"), key=lambda file: file.name)
    files[0].unlink()
    (_, gone), (_, there) = read_files(files)
    assert isinstance(gone, FileNotFoundError) and there == b"b"


def test_a_write_that_breaks_leaves_the_old(url, monkeypatch):
    file = location(url) / "run" / "a"
    write(file, b"old")

    def broken(*args, **kwargs):
        raise ConnectionError("cable cut")

    with monkeypatch.context() as patch:
        request = "_call_s3" if url.startswith("s3") else "pipe_file"
        patch.setattr(type(file.filesystem), request, broken)
        with pytest.raises(OSError, match="cable cut"):
            write(file, b"new")
    assert file.read_bytes() == b"old"
    assert [found.name for found in file.parent.glob("*")] == ["a"]


def test_where_a_put_is_not_whole_a_temporary_file_is_renamed(monkeypatch):
    file = location("memory://whole-or-not") / "a"
    monkeypatch.setattr(locations, "_OBJECT_STORES", set())
    write(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(type(file.filesystem), "mv", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            write(file, b"new")
    assert file.read_bytes() == b"old"
    assert [found.name for found in file.parent.glob("*")] == ["a"]
    write(file, b"new")
    assert file.read_bytes() == b"new"


def test_of_several_that_create_a_file_one_does(url):
    file, start, found = location(url) / "lock", threading.Barrier(4), []

    def create(number):
        start.wait()
        found.append((file.create(str(number).encode()), number))

    threads = [threading.Thread(target=create, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for won, number in found if won]
    assert file.read_bytes() == str(winner).encode()


def test_a_file_or_folder_is_had_as_one_of_this_machine(anywhere):
    folder = location(anywhere) / "artifact"
    write(folder / "a", b"1")
    write(folder / "b", b"2")
    with local_copy(folder) as here:
        assert {file.name: file.read_bytes() for file in here.iterdir()} == {"a": b"1", "b": b"2"}
    with local_copy(folder / "a") as here:
        assert isinstance(here, Path) and here.read_bytes() == b"1"


def test_a_url_that_names_nothing_usable_is_one_line():
    for text in ("s3://", "nothing://x", "s3://bucket/../other", "simplecache://a::memory://b", "memory://a::b"):
        with pytest.raises(ValueError) as caught:
            location(text)
        assert len(str(caught.value).splitlines()) == 1


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'lopt-sweep\[s3\]'"):
        location("s3://bucket/results")


def test_folders_and_file_urls_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert location(f"file://{tmp_path}/a") == tmp_path / "a"
    assert display_path(tmp_path / "a" / "b") == display_path(Path("a/b")) == "a/b"
    assert display_path(location("memory://x/y")) == "memory://x/y"


def test_an_unreachable_store_is_an_error_and_not_empty(s3, monkeypatch):
    file = location(f"{s3}-gone") / "manifest.json"
    with pytest.raises(OSError):
        file.write_bytes(b"")

    async def refused(*args, **kwargs):
        raise ConnectionRefusedError("no route")

    monkeypatch.setattr(type(file.filesystem), "_call_s3", refused)
    for ask in (file.is_file, file.read_bytes, lambda: file.parent.glob("*")):
        with pytest.raises(OSError, match="no route"):
            ask()


@pytest.mark.parametrize(
    ("text", "safe"),
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
def test_secrets_are_not_shown(text, safe):
    assert redacted(text) == safe
