"""Files behind URLs: s3://, gs://, hf://, https:// and all else that fsspec opens.

In: a URL. Out: whether it is one, its file system, a stamp of its state, what lies below it.
"""

import functools
import posixpath
import re
from types import ModuleType
from typing import Any, cast

from auricle.errors import DataError, MissingExtra


def is_remote(location: str) -> bool:
    """Whether a location is a URL for fsspec, such as s3://bucket/corpus.zip."""
    return re.match(r"[a-z][a-z0-9+.-]+://", location) is not None


def fsspec_module() -> ModuleType:
    """The fsspec package, or MissingExtra."""
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtra("Reading from a remote store", "train") from error
    return cast(ModuleType, fsspec)


def filesystem_of(location: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it. Raises DataError where what opens such URLs is not installed."""
    try:
        filesystem, path = fsspec_module().core.url_to_fs(location)
        return filesystem, path
    except (ImportError, ValueError) as error:
        scheme = location.partition("://")[0]
        install = f" Install it: pip install 'fsspec[{scheme}]'." if isinstance(error, ImportError) else ""
        raise DataError(f"'{location}' cannot be opened: {str(error).rstrip('.')}.{install}") from error


@functools.lru_cache(maxsize=1 << 17)
def remote_stamp(location: str) -> str:
    """Text that changes when what is at a URL does, as far as its server says. Raises DataError where nothing is."""
    filesystem, path = filesystem_of(location)
    try:
        about = filesystem.info(path)
    except OSError as error:
        raise DataError(f"'{location}' cannot be opened: {error}. Check the URL and your access rights.") from error
    version = about.get("ETag") or about.get("etag") or about.get("mtime") or about.get("LastModified") or ""
    return f"{about.get('size')}-{version}"


def listed(url: str) -> tuple[str, list[tuple[str, int]]]:
    """The folder of a URL, itself or that of its file, and the names and sizes of the files there, or of this one.

    Raises DataError where it cannot be listed.
    """
    filesystem, path = filesystem_of(url)
    is_web = url.startswith(("http://", "https://"))
    if is_web and not posixpath.splitext(url)[1]:
        raise DataError(
            f"'{url}' cannot be listed: a web server has no folders. Give the URL of a table of its recordings, such "
            f"as {url.rstrip('/')}/metadata.csv, or of an archive."
        )
    try:
        if is_web or filesystem.isfile(path):
            folder, _, name = url.rpartition("/")
            return folder, [(name, int(filesystem.size(path) or 0))]
        files = filesystem.find(path, detail=True)
    except OSError as error:
        raise DataError(f"'{url}' cannot be listed: {error}. Check the URL and your access rights.") from error
    return url, [(posixpath.relpath(name, path), int(info.get("size") or 0)) for name, info in files.items()]
