"""Where results lie: a folder, or a URL of any file system that fsspec reaches, such as s3://bucket/prefix.

A location is a `pathlib.Path`, or a `RemoteLocation`, which has those methods of a Path that results need. A file is
written whole or not at all: an object store gets one PUT; elsewhere a temporary file is written and renamed.
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

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "memory"}
_EXTRAS = {"s3": "s3", "s3a": "s3"}  # of this package, by protocol
_one_at_a_time = threading.RLock()  # threads that ask SFTP at once may wait for ever
_opened: dict[str, Any] = {}  # file systems whose URLs told what is not shown, by protocol and host as they are shown


@dataclass(frozen=True)
class RemoteLocation:
    """A place behind a URL. Whatever goes wrong there is an OSError.

    url: to be shown, without user, password and query. path: as the file system names it.
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
        """Whether a PUT is whole, and there is no rename."""
        return self.protocol in _OBJECT_STORES

    @property
    def parent(self) -> Self:
        return replace(self, url=self.url.rpartition("/")[0], path=self.path.rpartition("/")[0])

    def with_name(self, name: str) -> Self:
        return self.parent / name

    def resolve(self) -> Self:
        return self

    def exists(self) -> bool:
        return self._type() is not None

    def is_file(self) -> bool:
        return self._type() == "file"

    def is_dir(self) -> bool:
        return self._type() == "directory"

    def glob(self, pattern: str) -> list[Self]:
        """What lies directly here and whose name fits the pattern; nothing where nothing is here."""
        try:
            found = self._ask("ls", self.path, detail=False)
        except FileNotFoundError:
            return []
        names = {path.rstrip("/").rpartition("/")[2] for path in found}
        return [self / name for name in sorted(names) if fnmatchcase(name, pattern)]

    def read_bytes(self) -> bytes:
        return self._ask("cat_file", self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """All of `content` or nothing."""
        if self.is_object_store:
            self._ask("pipe_file", self.path, bytes(content))
            return
        scratch = self.with_name(f".{self.name}.{secrets.token_hex(4)}")
        self._ask("makedirs", self.parent.path, exist_ok=True)
        try:
            self._ask("pipe_file", scratch.path, bytes(content))
            self._ask("mv", scratch.path, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                scratch.unlink()
            raise

    def create(self, content: bytes) -> bool:
        """Writes `content` where nothing was, and says whether it did; of several at once one does, if the file system
        can see to that (S3: PUT with If-None-Match)."""
        if not self.is_object_store:
            self._ask("makedirs", self.parent.path, exist_ok=True)
        try:
            self._ask("pipe_file", self.path, content, mode="create")
        except OSError:  # each file system has its own word for it
            if self.exists():
                return False
            raise
        return True

    def rename(self, target: Self) -> None:
        self._ask("mv", self.path, target.path)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._ask("rm_file", self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def _type(self) -> str | None:
        try:
            return self._ask("info", self.path)["type"]
        except FileNotFoundError:
            return None

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            with contextlib.nullcontext() if self.filesystem.async_impl else _one_at_a_time:
                self.filesystem.invalidate_cache()  # others write there, too
                return getattr(self.filesystem, method)(*arguments, **options)
        except OSError:
            raise
        except Exception as error:  # each file system has its own
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise OSError(f"{self.url}: {redacted(reason)}") from error


Location: TypeAlias = Path | RemoteLocation


def location(text: str | Path | RemoteLocation) -> Location:
    """The place that a folder's name or a URL names. One with a password is known by what is shown of it from then on.
    ValueError for a URL that names none, or whose file system is unknown or not installed."""
    if isinstance(text, RemoteLocation):
        return text
    url = str(text)
    scheme = _URL.match(url)
    if isinstance(text, Path) or not scheme:
        return Path(text)
    protocol, rest = scheme[1].lower(), url[scheme.end() :].rstrip("/")
    if protocol in ("file", "local"):
        return Path(rest)
    if not rest or "::" in rest or ".." in rest.split("/"):
        raise ValueError(f"{redacted(url)} names no folder; give one as in s3://bucket/prefix")
    from fsspec.core import url_to_fs

    shown_url = redacted(url).rstrip("/")
    host = f"{protocol}://{shown_url.partition('://')[2].partition('/')[0]}"
    try:
        if shown_url == url.rstrip("/") and host in _opened:
            filesystem = _opened[host]
            path = filesystem._strip_protocol(url)
        else:
            filesystem, path = url_to_fs(f"{protocol}://{rest}")
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        mend = f"pip install 'lopt-sweep[{extra}]'" if extra else " ".join(str(error).split())
        raise ValueError(f"{redacted(url)} needs a package that is not installed: {mend}") from None
    except Exception as error:  # whatever a file system thinks of its URL
        raise ValueError(f"{redacted(url)} cannot be used: {redacted(' '.join(str(error).split()))}") from None
    if shown_url != url.rstrip("/"):
        _opened[host] = filesystem
    return RemoteLocation(shown_url, path.rstrip("/"), protocol, filesystem)


def write(to: Location, content: bytes | memoryview) -> None:
    """All of `content` or nothing; makes the folder."""
    if isinstance(to, RemoteLocation):
        to.write_bytes(content)
    else:
        write_atomically(to, content)


def check_replaces(folder: Location) -> None:
    """Sees, where that depends on a server, that a file which is written again has its new content;
    ValueError when it keeps the old one, or cannot be written again."""
    if isinstance(folder, Path) or folder.is_object_store:
        return
    file = folder / f".check.{secrets.token_hex(4)}"
    write(file, b"old")
    try:
        write(file, b"new")
        replaced = file.read_bytes() == b"new"
    except OSError:
        replaced = False
    finally:
        file.unlink(missing_ok=True)
    if not replaced:
        raise ValueError(
            f"{folder}: a file there cannot be replaced by renaming another one; give a folder, or s3://..."
        )


def read_part(file: Location, begin: int, end: int) -> bytes:
    """Bytes of a file from `begin` up to `end`, or up to its end."""
    if isinstance(file, RemoteLocation):
        return file._ask("cat_file", file.path, start=begin, end=end)
    with file.open("rb") as opened:
        opened.seek(begin)
        return opened.read(end - begin)


def move(folder: Location, to: Location) -> None:
    """Renames a folder with all that is in it; on an object store, file by file."""
    if isinstance(folder, RemoteLocation) and isinstance(to, RemoteLocation):
        folder._ask("mv", folder.path, to.path, **({"recursive": True} if folder.is_object_store else {}))
    elif isinstance(folder, Path) and isinstance(to, Path):
        folder.rename(to)
    else:
        raise ValueError(f"{folder} and {to} are not of one file system")


def remove_all(folder: Location) -> None:
    """Removes a folder and what is in it, if it is there."""
    if isinstance(folder, RemoteLocation):
        with contextlib.suppress(FileNotFoundError):
            folder._ask("rm", folder.path, recursive=True)
    else:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def read_files(files: list[Any]) -> Iterator[tuple[Any, bytes | OSError]]:
    """Each file with its content, or with why it cannot be read; those of a URL are fetched together."""
    remote = {file.path: file for file in files if isinstance(file, RemoteLocation)}
    if remote:
        first = next(iter(remote.values()))
        for path, found in first._ask("cat", list(remote), on_error="return").items():
            yield remote[path], found if isinstance(found, bytes | OSError) else OSError(redacted(str(found)))
        return
    for file in files:
        try:
            yield file, file.read_bytes()
        except OSError as error:
            yield file, error


@contextlib.contextmanager
def local_copy(source: Location) -> Iterator[Path]:
    """A file, or a folder of files, as one of this machine: itself, or a temporary copy. OSError when one of the
    files cannot be read."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="lopt-") as scratch:
        copy = Path(scratch) / source.name
        if source.is_file():
            copy.write_bytes(source.read_bytes())
        else:
            copy.mkdir()
            for file, found in read_files(source.glob("*")):
                if isinstance(found, bytes):
                    (copy / file.name).write_bytes(found)
                elif not file.is_dir():
                    raise found
        yield copy


def display_path(of: Location) -> str:
    """As a user in the current folder would type it."""
    if isinstance(of, RemoteLocation):
        return str(of)
    try:
        return str(of.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(of)


_CREDENTIALS = re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)(?:[^/@\s]+@)+")  # abfs://container@account is no secret
_QUERY = re.compile(r"(://[^?\s]*)\?\S*")
_SECRET = re.compile(
    r"((?<![a-z0-9])(?:token|secret|password|passwd|pwd|credentials?|(?:api|access|secret|private)_?key)=).+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """`text` without what is secret in it: users and passwords in URLs, their queries (signatures), and the values of
    keys such as token and password."""
    return _SECRET.sub(r"\1***", _QUERY.sub(r"\1", _CREDENTIALS.sub("", text)))
