"""Folders and URLs are the same to whoever keeps results there."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from fsspec.registry import _registry

from lopt import places
from lopt.places import at_hand, contents, place, read_part, redacted, remove_all, shown, write


def test_files_are_written_read_listed_renamed_and_removed(anywhere):
    folder = place(anywhere) / "run"
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
    assert [content for _, content in contents(list((folder / "trials").glob("*.json")))] == [b"two"]
    file.unlink(missing_ok=True)
    file.with_name("c.json").unlink()
    remove_all(folder / "trials")
    remove_all(folder / "trials")
    assert list((folder / "trials").glob("*")) == []


def test_a_part_of_a_file(anywhere):
    file = place(anywhere) / "run" / "a"
    write(file, bytes(range(100)))
    assert read_part(file, 10, 20) == bytes(range(10, 20))
    assert read_part(file, 90, 200) == bytes(range(90, 100))


def test_what_others_write_is_seen_at_once(anywhere):
    file, same = place(anywhere) / "run" / "a", place(anywhere) / "run" / "a"
    assert not same.exists() and list(same.parent.glob("*")) == []
    write(file, b"1")
    assert same.exists() and [found.name for found in same.parent.glob("*")] == ["a"]


def test_a_file_that_goes_in_between_is_said(anywhere):
    folder = place(anywhere) / "run"
    for name in "ab":
        write(folder / name, name.encode())
    files = sorted(folder.glob("*"), key=lambda file: file.name)
    files[0].unlink()
    (_, gone), (_, there) = contents(files)
    assert isinstance(gone, FileNotFoundError) and there == b"b"


def test_a_write_that_breaks_leaves_the_old(url, monkeypatch):
    file = place(url) / "run" / "a"
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
    file = place("memory://whole-or-not") / "a"
    monkeypatch.setattr(places, "_OBJECT_STORES", set())
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
    file, start, found = place(url) / "lock", threading.Barrier(4), []

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
    folder = place(anywhere) / "artifact"
    write(folder / "a", b"1")
    write(folder / "b", b"2")
    with at_hand(folder) as here:
        assert {file.name: file.read_bytes() for file in here.iterdir()} == {"a": b"1", "b": b"2"}
    with at_hand(folder / "a") as here:
        assert isinstance(here, Path) and here.read_bytes() == b"1"


def test_a_url_that_names_nothing_usable_is_one_line():
    for text in ("s3://", "nothing://x", "s3://bucket/../other", "simplecache://a::memory://b", "memory://a::b"):
        with pytest.raises(ValueError) as caught:
            place(text)
        assert len(str(caught.value).splitlines()) == 1


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'lopt-sweep\[s3\]'"):
        place("s3://bucket/results")


def test_folders_and_file_urls_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(f"file://{tmp_path}/a") == tmp_path / "a"
    assert shown(tmp_path / "a" / "b") == shown(Path("a/b")) == "a/b"
    assert shown(place("memory://x/y")) == "memory://x/y"


def test_an_unreachable_store_is_an_error_and_not_empty(s3, monkeypatch):
    file = place(f"{s3}-gone") / "manifest.json"
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
