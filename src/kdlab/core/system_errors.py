"""What the machine refuses, a full disk, a folder of another user, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "make it writable, or choose another place with runs=DIR or the environment variable KDLAB_HOME",
    ),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit, ulimit -n 4096, or set data.workers=0"),
    errno.ENAMETOOLONG: "choose a shorter name=NAME or runs=DIR",
    errno.ENOENT: "create it, or choose another",
}

_WRITERS = re.compile(r"PytorchStreamWriter|inline_container|iostream error|unexpected pos")
"""What torch says where its own writer could not write."""


def system_error(error: BaseException) -> OSError | None:
    """The error of the operating system that is behind an exception, if one is."""
    if isinstance(error, OSError):
        return error
    if code := re.search(r"\(os error (\d+)\)", str(error)):  # of a library that is written in Rust
        return OSError(int(code[1]), os.strerror(int(code[1])))
    if isinstance(error, RuntimeError) and _WRITERS.search(str(error)):
        behind = error.__cause__ or error.__context__
        return behind if isinstance(behind, OSError) else OSError(errno.ENOSPC, "a checkpoint could not be written")
    return None if error.__cause__ is None else system_error(error.__cause__)


def explained(error: OSError) -> str:
    """`FILE: what is wrong; what to do`, in one line."""
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    said = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if said.startswith("No usable temporary directory"):
        return f"{said}; set TMPDIR=DIR to a folder that exists and is writable"
    advice = _ADVICE.get(error.errno or 0)
    return f"{file}{said}{f'; {advice}' if advice else ''}"
