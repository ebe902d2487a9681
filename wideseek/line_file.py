"""A file of lines that only grows, and whose lines stay whole on a full disk and after a kill."""

from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self


class LineFile:
    """Lines that are appended one at a time; each is in the file before `append` returns.

    Opening makes the file, and cuts off a last line that was torn; the whole lines before it are
    never written again. One writer a file. A context manager that closes it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)
        self._length = 0  # bytes of whole lines
        if path.stat().st_size:
            with mmap(self._file.fileno(), 0, access=ACCESS_READ) as text:
                self._length = text.rfind(b"\n") + 1
            self._file.truncate(self._length)

    def append(self, line: str) -> None:
        """Write one line, given without its end; half a surrogate pair becomes an escape.

        OSError where it does not go on the disk whole: then nothing of it stays in the file.
        """
        text = (line + "\n").encode("utf-8", "backslashreplace")
        written = 0
        try:
            while written < len(text):  # a disk that is nearly full takes a part
                written += self._file.write(text[written:])
        finally:
            if written < len(text):
                self._file.truncate(self._length)
        self._length += len(text)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()
