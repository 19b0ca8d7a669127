"""Locations of results: a folder, or a URL of any file system that fsspec reaches, such as s3://bucket/prefix.

A location is a `pathlib.Path` or a `RemoteLocation`, which has the methods of a Path that results need. A file is
written completely or not at all: an object store gets one PUT; elsewhere a temporary file is written and renamed.
"""

import contextlib
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeAlias

from lopt.files import write_atomically

_SCHEME_PATTERN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OBJECT_STORE_PROTOCOLS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
_EXTRA_BY_PROTOCOL = {"s3": "s3", "s3a": "s3"}  # what to install for a protocol, as in lopt-sweep[s3]
_filesystem_call_lock = threading.RLock()  # threads that use SFTP at the same time may hang
# File systems that were opened with secrets in their URLs, by "protocol://host". A URL is displayed without its
# secrets. If the displayed URL is given later, the open file system is found here.
_filesystem_by_host: dict[str, Any] = {}


@dataclass(frozen=True)
class RemoteLocation:
    """A file or folder at a URL. Every failure of its file system is raised as an OSError.

    Attributes:
        url: the URL for display, without user, password and query.
        path: the path in the form that the file system takes.
        protocol: the part of the URL before "://", in lower case.
        filesystem: fsspec's file system.
    """

    url: str
    path: str
    protocol: str
    filesystem: Any = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Self:
        return replace(self, url=f"{self.url}/{name}", path=f"{self.path}/{name}")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_object_store(self) -> bool:
        """Whether this is an object store. There a PUT writes a whole file or nothing, and no file can be renamed."""
        return self.protocol in _OBJECT_STORE_PROTOCOLS

    @property
    def parent(self) -> Self:
        return replace(self, url=self.url.rpartition("/")[0], path=self.path.rpartition("/")[0])

    def with_name(self, name: str) -> Self:
        return self.parent / name

    def resolve(self) -> Self:
        return self

    def exists(self) -> bool:
        return self._entry_type() is not None

    def is_file(self) -> bool:
        return self._entry_type() == "file"

    def is_dir(self) -> bool:
        return self._entry_type() == "directory"

    def glob(self, pattern: str) -> list[Self]:
        """Return the direct children whose names match the pattern; an empty list if the folder does not exist."""
        try:
            paths = self._call("ls", self.path, detail=False)
        except FileNotFoundError:
            return []
        names = {path.rstrip("/").rpartition("/")[2] for path in paths}
        return [self / name for name in sorted(names) if fnmatchcase(name, pattern)]

    def read_bytes(self) -> bytes:
        return self._call("cat_file", self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Write all of `content`, or change nothing if this fails."""
        if self.is_object_store:
            self._call("pipe_file", self.path, bytes(content))
            return
        temporary_file = self.with_name(f".{self.name}.{secrets.token_hex(4)}")
        self._call("makedirs", self.parent.path, exist_ok=True)
        try:
            self._call("pipe_file", temporary_file.path, bytes(content))
            self._call("mv", temporary_file.path, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary_file.unlink()
            raise

    def create(self, content: bytes) -> bool:
        """Write a new file and return True, or return False if the file exists already.

        If several processes call this at once, only one of them gets True, provided that the file system can ensure
        this (S3: PUT with If-None-Match).
        """
        if not self.is_object_store:
            self._call("makedirs", self.parent.path, exist_ok=True)
        try:
            self._call("pipe_file", self.path, content, mode="create")
        except OSError:  # the type of the error for an existing file differs between file systems
            if self.exists():
                return False
            raise
        return True

    def rename(self, target: Self) -> None:
        self._call("mv", self.path, target.path)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._call("rm_file", self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _entry_type(self) -> str | None:
        try:
            return self._call("info", self.path)["type"]
        except FileNotFoundError:
            return None

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system, and turn its exceptions into OSErrors without secrets."""
        try:
            with contextlib.nullcontext() if self.filesystem.async_impl else _filesystem_call_lock:
                self.filesystem.invalidate_cache()  # because other processes write there, too
                return getattr(self.filesystem, method)(*arguments, **options)
        except OSError:
            raise
        except Exception as error:  # each file system has its own exceptions
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise OSError(f"{self.url}: {redact_secrets(reason)}") from error


Location: TypeAlias = Path | RemoteLocation


def to_location(path_or_url: str | Path | RemoteLocation) -> Location:
    """Return the location that a path or a URL names.

    A URL is displayed without its password. Once a process was given the whole URL, the displayed one is enough.

    Raises:
        ValueError: the URL names no folder, or its file system is unknown or not installed.
    """
    if isinstance(path_or_url, RemoteLocation):
        return path_or_url
    url = str(path_or_url)
    scheme_match = _SCHEME_PATTERN.match(url)
    if isinstance(path_or_url, Path) or not scheme_match:
        return Path(path_or_url)
    protocol, address = scheme_match[1].lower(), url[scheme_match.end() :].rstrip("/")
    if protocol in ("file", "local"):
        return Path(address)
    if not address or "::" in address or ".." in address.split("/"):
        raise ValueError(f"{redact_secrets(url)} does not name a folder; give a URL such as s3://bucket/prefix")
    from fsspec.core import url_to_fs

    safe_url = redact_secrets(url).rstrip("/")
    protocol_and_host = f"{protocol}://{safe_url.partition('://')[2].partition('/')[0]}"
    has_secrets = safe_url != url.rstrip("/")
    try:
        if not has_secrets and protocol_and_host in _filesystem_by_host:
            filesystem = _filesystem_by_host[protocol_and_host]
            path_in_filesystem = filesystem._strip_protocol(url)
        else:
            filesystem, path_in_filesystem = url_to_fs(f"{protocol}://{address}")
    except ImportError as error:
        extra = _EXTRA_BY_PROTOCOL.get(protocol)
        install_advice = f"pip install 'lopt-sweep[{extra}]'" if extra else " ".join(str(error).split())
        raise ValueError(f"{redact_secrets(url)} needs a package that is not installed: {install_advice}") from None
    except Exception as error:  # each file system has its own exceptions for a bad URL
        reason = " ".join(str(error).split())
        raise ValueError(f"{redact_secrets(url)} cannot be used: {redact_secrets(reason)}") from None
    if has_secrets:
        _filesystem_by_host[protocol_and_host] = filesystem
    return RemoteLocation(safe_url, path_in_filesystem.rstrip("/"), protocol, filesystem)


def write_file(file: Location, content: bytes | memoryview) -> None:
    """Write all of `content` to a file, or change nothing if this fails. The folder is made if it does not exist."""
    if isinstance(file, RemoteLocation):
        file.write_bytes(content)
    else:
        write_atomically(file, content)


def check_can_replace(folder: Location) -> None:
    """Check that a file in this folder can be replaced. Local folders and object stores need no check.

    Raises:
        ValueError: the server refuses to write a file again, or keeps its old content.
    """
    if isinstance(folder, Path) or folder.is_object_store:
        return
    test_file = folder / f".check.{secrets.token_hex(4)}"
    write_file(test_file, b"old")
    try:
        write_file(test_file, b"new")
        is_replaced = test_file.read_bytes() == b"new"
    except OSError:
        is_replaced = False
    finally:
        test_file.unlink(missing_ok=True)
    if not is_replaced:
        raise ValueError(
            f"{folder}: a file there cannot be replaced by renaming another file; give a local folder, or s3://..."
        )


def read_bytes_between(file: Location, begin: int, end: int) -> bytes:
    """Return the bytes of a file from `begin` up to `end`, or fewer if the file is shorter."""
    if isinstance(file, RemoteLocation):
        return file._call("cat_file", file.path, start=begin, end=end)
    with file.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)


def move_folder(folder: Location, new_folder: Location) -> None:
    """Rename a folder with everything in it. On an object store each file is moved by itself."""
    if isinstance(folder, RemoteLocation) and isinstance(new_folder, RemoteLocation):
        folder._call("mv", folder.path, new_folder.path, **({"recursive": True} if folder.is_object_store else {}))
    elif isinstance(folder, Path) and isinstance(new_folder, Path):
        folder.rename(new_folder)
    else:
        raise ValueError(f"{folder} and {new_folder} are not on the same file system; give two locations that are")


def remove_folder(folder: Location) -> None:
    """Remove a folder and everything in it, if it exists."""
    if isinstance(folder, RemoteLocation):
        with contextlib.suppress(FileNotFoundError):
            folder._call("rm", folder.path, recursive=True)
    else:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def read_files(files: list[Any]) -> Iterator[tuple[Any, bytes | OSError]]:
    """Yield each file with its content, or with the error that prevented reading it.

    Args:
        files: either all local, or all on one remote file system, where they are read together.
    """
    remote_files = {file.path: file for file in files if isinstance(file, RemoteLocation)}
    if remote_files:
        any_file = next(iter(remote_files.values()))
        for path, content in any_file._call("cat", list(remote_files), on_error="return").items():
            is_content_or_error = isinstance(content, bytes | OSError)
            yield remote_files[path], content if is_content_or_error else OSError(redact_secrets(str(content)))
        return
    for file in files:
        try:
            yield file, file.read_bytes()
        except OSError as error:
            yield file, error


@contextlib.contextmanager
def local_copy(source: Location) -> Iterator[Path]:
    """Yield a local path with the content of a file, or of a folder of files.

    A local `source` is yielded as it is. A remote one is copied to a temporary folder.

    Raises:
        OSError: one of the files cannot be read.
    """
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="lopt-") as temporary_folder:
        copied_path = Path(temporary_folder) / source.name
        if source.is_file():
            copied_path.write_bytes(source.read_bytes())
        else:
            copied_path.mkdir()
            for file, content in read_files(source.glob("*")):
                if isinstance(content, bytes):
                    (copied_path / file.name).write_bytes(content)
                elif not file.is_dir():
                    raise content
        yield copied_path


def display_path(path: Location) -> str:
    """Return a location as text: a path within the current folder is relative to it."""
    if isinstance(path, RemoteLocation):
        return str(path)
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# The part before the @ in abfs://container@account is not a secret.
_CREDENTIALS_PATTERN = re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)(?:[^/@\s]+@)+")
_QUERY_PATTERN = re.compile(r"(://[^?\s]*)\?\S*")
_SECRET_PATTERN = re.compile(
    r"((?<![a-z0-9])(?:token|secret|password|passwd|pwd|credentials?|(?:api|access|secret|private)_?key)=).+",
    re.IGNORECASE,
)


def redact_secrets(text: str) -> str:
    """Return a text without its secrets.

    Secrets are users and passwords in URLs, the queries of URLs (they may hold signatures), and the values of keys such
    as token and password.
    """
    return _SECRET_PATTERN.sub(r"\1***", _QUERY_PATTERN.sub(r"\1", _CREDENTIALS_PATTERN.sub("", text)))
