"""Recognise a file or a folder: by its size and time, or by a checksum."""

import hashlib
from pathlib import Path


def files_of(path: Path) -> list[Path]:
    """Return the files that make up a section: itself, or all below its folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change in nanoseconds, a cheap way to notice a change."""
    stats = [file.stat() for file in files_of(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of the files in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{file.relative_to(path)} {checksum_of(file)}" for file in files_of(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
