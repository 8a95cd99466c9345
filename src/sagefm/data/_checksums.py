"""By what a file or a folder is known again: size and time, or a checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_of(path: Path) -> list[Path]:
    """Return the files that make up a section: itself, or all below its folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def stamp_of(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of the last change in nanoseconds: cheap, to tell whether it is the same file."""
    stats = [file.stat() for file in files_of(path)]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def checksum_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and hashes of the files in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [f"{file.relative_to(path)} {checksum_of(file)}" for file in files_of(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
