"""Where a queuelib file lies: whether it is safe there, made with care, and the folder beside it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from queuelib.errors import ConfigurationError

__all__ = ["folder_of", "prepare_file", "refuse_network_file_system"]

_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "pvfs2",
     "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "orangefs", "panfs", "acfs", "ocfs2", "gfs2"}
)  # fmt: skip


def folder_of(path: Path) -> Path:
    """Return the folder beside the file itself: whoever names it by a link must find the same claims and bells there."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + ".d")


def prepare_file(path: Path, folder: Path) -> None:
    """Make the file and its folder where they are missing.

    Raises:
        ConfigurationError: They cannot be made, or others may change them; the message says why and what to do.
    """
    refuse_network_file_system(path)
    if not path.parent.is_dir():
        msg = f"the folder {path.parent} of {path.name} does not exist: make it, or name another file"
        raise ConfigurationError(msg)
    _refuse_foreign_hands(path.parent, "folder")
    for place in (path, folder):
        _refuse_foreign_link(place)
    if path.is_symlink():
        _refuse_foreign_hands(path, "file")  # nothing is made at the end of a link
        _refuse_foreign_hands(folder.parent, "folder")
    try:
        _make_folder(folder)
        # Only ever created here: closing a descriptor of an existing database would drop SQLite's own locks on it.
        if not path.exists():
            made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            os.fchmod(made, 0o600)  # whatever the umask
            os.close(made)
    except FileExistsError:
        pass
    except OSError as error:
        msg = f"{path} cannot be made ({error.strerror}): its folder must be writable by this user and have room"
        raise ConfigurationError(msg) from error
    _refuse_foreign_hands(path, "file")
    _refuse_foreign_hands(folder, "folder")
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        msg = f"{path} is not writable by this user: queuelib writes to the file and beside it"
        raise ConfigurationError(msg)


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Refuse a file whose locks other machines would not see.

    Raises:
        ConfigurationError: The file would lie on a network file system, according to the table `mounts`.
    """
    try:
        table = mounts.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # no such table on this system
    target = Path(os.path.realpath(path)).parent
    best = ("", "")
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 3:  # noqa: PLR2004 - device, mount point, type
            continue
        point = fields[1].replace("\\040", " ")
        if target.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, fields[2])
    if best[1] in _NETWORK_TYPES:
        msg = (
            f"{path} lies on a network file system ({best[1]} at {best[0]}), where file locks do not protect a database. "
            "Use a file on a local disk for one machine, or redis:// or amqp:// for several"
        )
        raise ConfigurationError(msg)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)  # whatever the umask


def _refuse_foreign_link(place: Path) -> None:
    """Refuse a symbolic link that somebody else has laid; one's own, or root's, leads where its owner wants."""
    try:
        found = place.lstat()
    except OSError:
        return  # nothing is there yet
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
        msg = f"{place} is a symbolic link that belongs to user {found.st_uid}: name the file itself, or a folder of your own"
        raise ConfigurationError(msg)


def _refuse_foreign_hands(place: Path, what: str) -> None:
    """Refuse what everybody may write to: a folder is safe with the sticky bit, as /tmp has it."""
    try:
        mode = place.stat().st_mode
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        msg = f"{place} is a link that leads nowhere: name the file itself"
        raise ConfigurationError(msg) from error
    if mode & stat.S_IWOTH and not (what == "folder" and mode & stat.S_ISVTX):
        remedy = f"chmod o-w {place}" + (f", or chmod +t {place} where it is to be shared" if what == "folder" else "")
        msg = f"the {what} {place} is writable by everybody, who could replace your jobs by theirs: {remedy}"
        raise ConfigurationError(msg)
