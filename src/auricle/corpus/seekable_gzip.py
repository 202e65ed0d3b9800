"""Random access to a gzip stream, for archives that are read in place."""

import bisect
import io
import zlib
from typing import BinaryIO


class SeekableGzip(io.RawIOBase):
    """A gzip stream with random access: every `spacing` bytes of output it saves a copy of the decompressor.

    zlib's state takes some 40 kB per checkpoint, at most some 40 MB per stream. Not safe from several threads.
    """

    _CHUNK_BYTES = 1 << 14
    _MAX_CHECKPOINTS = 1024

    def __init__(self, file: BinaryIO, spacing: int) -> None:
        self._file = file
        self._spacing = spacing
        self._position = 0  # of the reader, in the output
        self._block, self._block_start = b"", 0  # the output decompressed last
        self._input_position = 0
        self._between_members = True  # whether a gzip member may begin at the input position
        self._decompressor = zlib.decompressobj(wbits=31)
        # Output position, input position, between members, decompressor.
        self._checkpoints = [(0, 0, True, self._decompressor.copy())]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a gzip stream is unknown before it is reached")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            raise io.UnsupportedOperation("a gzip stream is read in chunks of a given size")
        chunks: list[bytes] = []
        while size:
            self._load_block()
            begin = self._position - self._block_start
            chunk = self._block[begin : begin + size]
            if not chunk:
                break
            chunks.append(chunk)
            size -= len(chunk)
            self._position += len(chunk)
        return b"".join(chunks)

    def _load_block(self) -> None:
        """Decompress the block at the reader's position, from the nearest checkpoint or from the current state."""
        nearest = self._checkpoints[bisect.bisect_right(self._checkpoints, self._position, key=lambda row: row[0]) - 1]
        if self._position < self._block_start or nearest[0] > self._block_start + len(self._block):
            self._block, self._block_start = b"", nearest[0]
            self._input_position, self._between_members, self._decompressor = nearest[1], nearest[2], nearest[3].copy()
        while self._position >= self._block_start + len(self._block):
            if not self._next_block():
                return

    def _next_block(self) -> bool:
        """Decompress the next block. False at the end; raises EOFError for a truncated stream."""
        self._file.seek(self._input_position)
        chunk = self._file.read(self._CHUNK_BYTES)
        if not chunk.strip(b"\0") and self._between_members:  # the end, or padding that some writers add
            return False
        if not chunk:
            raise EOFError("the gzip stream is truncated")
        output = self._decompressor.decompress(chunk)
        self._block_start += len(self._block)
        self._block = output
        self._input_position += len(chunk) - len(self._decompressor.unused_data)
        self._between_members = self._decompressor.eof
        if self._between_members:  # a gzip file may have several members, one after another
            self._decompressor = zlib.decompressobj(wbits=31)
        self._save_checkpoint()
        return True

    def _save_checkpoint(self) -> None:
        position = self._block_start + len(self._block)
        if position < self._checkpoints[-1][0] + self._spacing:
            return
        state = (position, self._input_position, self._between_members, self._decompressor.copy())
        self._checkpoints.append(state)
        if len(self._checkpoints) > self._MAX_CHECKPOINTS:
            self._checkpoints = self._checkpoints[::2]
            self._spacing *= 2
