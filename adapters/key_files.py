"""Local keys in files: one key, a key a line, an encrypted keystore; and passwords and PINs.

Each ValueError goes on where a setting's name ends, and never quotes a content. It is raised where
the text that was read is no local any more: the traceback would keep that in memory.
"""

import os
import re
import stat
from pathlib import Path
from shlex import quote

from adapters.key_local import LocalKey
from adapters.keystore import KeystoreError, opened

MAX_BYTES = 64 * 1024
"""What is larger is no secret: a keystore has 500 bytes, 64 keys have 4,300."""
MAX_KEYS = 64
_OTHERS = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH
"""Who may read it can spend; who may write it chooses who signs."""


def read_secret(path: Path, *, any_mode: bool) -> str:
    """The text of a file, links followed, less one newline at its end.

    Raises ValueError when there is none, or group or others may read it and not `any_mode`.
    """
    text = _text(_content(path, any_mode=any_mode))
    if text is None:
        raise ValueError(f"names {path}, which is no UTF-8 text; write the secret as plain text")
    if not text.strip():
        raise ValueError(f"names {path}, which is empty; write the secret into it")
    return text


def open_key(path: Path, *, any_mode: bool) -> LocalKey:
    """The key that is all of a file's text. Raises ValueError."""
    key, problem = _local(read_secret(path, any_mode=any_mode))
    if key is None:
        several = "DEPLOYER_PRIVATE_KEYS_FILE takes several keys, and comments"
        raise ValueError(f"names {path}, whose text {problem}; {several}")
    return key


def open_keys(path: Path, *, any_mode: bool) -> list[LocalKey]:
    """The keys of a file, one a line, in its order; what begins with # is a comment.

    Raises ValueError that tells a bad line by its number.
    """
    keys, problem = _each_line(read_secret(path, any_mode=any_mode))
    if problem:
        raise ValueError(f"names {path}, {problem}")
    return keys


def open_keystore(path: Path, password: str) -> LocalKey:
    """The key of a Web3 Secret Storage file of version 3. Its mode is free: it is encrypted.

    Takes up to a few seconds of a core and a GiB of memory. Raises ValueError.
    """
    try:
        return opened(read_secret(path, any_mode=True), password)
    except KeystoreError as error:
        raise ValueError(f"names {path}, {error}") from None


# --- Files.


def _content(path: Path, *, any_mode: bool) -> bytes:
    """What is asked and what is read is the same file, also when its link is moved meanwhile."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        # Where not even its folder is there, it may be the secret itself.
        named = f"{path}, which" if path.is_absolute() and path.parent.is_dir() else "what"
        raise ValueError(
            f"names {named} does not exist; give the full path of a file that holds the secret"
        ) from None
    except PermissionError:
        raise ValueError(
            f"names {path}, which user id {os.geteuid()} may not read; give it the file with "
            f"`chown {os.geteuid()} {quote(str(path))}`, and its folders with `chmod +x`"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no path"
        raise ValueError(f"names what cannot be opened: {reason}") from None
    try:
        if problem := _unfit(os.fstat(descriptor), path, any_mode=any_mode):
            raise ValueError(f"names {path}, {problem}")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise ValueError(f"names {path}, which cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _unfit(found: os.stat_result, path: Path, *, any_mode: bool) -> str | None:
    if stat.S_ISDIR(found.st_mode):
        return "which is a folder; name the file in it"
    if not stat.S_ISREG(found.st_mode):
        return "which is no regular file; write the secret into a file"
    if found.st_size > MAX_BYTES:
        return f"which has {found.st_size} bytes: no secret has more than {MAX_BYTES}"
    if found.st_mode & _OTHERS and not any_mode:
        mode = f"{stat.S_IMODE(found.st_mode):04o}"
        return (
            f"which group or others may read or write (mode {mode}): `chmod 600 "
            f"{quote(str(path))}`, or set ALLOW_READABLE_KEY_FILES=true where Docker or Kubernetes "
            "mounts it so"
        )
    return None


def _text(content: bytes) -> str | None:
    """None when the bytes are no UTF-8; the error, which holds them, is gone by then."""
    try:
        return re.sub(r"\r?\n\Z", "", content.decode())
    except UnicodeDecodeError:
        return None


# --- Keys.


def _local(text: str) -> tuple[LocalKey | None, str]:
    """The key, or what is wrong with the text."""
    try:
        return LocalKey(text, kind="key file"), ""
    except ValueError as error:
        return None, str(error)


def _each_line(text: str) -> tuple[list[LocalKey], str]:
    """The keys, or what is wrong."""
    keys: list[LocalKey] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        if len(keys) == MAX_KEYS:
            return [], f"which has more than {MAX_KEYS} keys; each is a lane, so take fewer"
        key, problem = _local(line)
        if key is None:
            return [], f"whose line {number} {problem}"
        first = lines.setdefault(key.address, number)
        if first != number:
            return [], f"whose lines {first} and {number} are the same key, {key.address}: keep one"
        keys.append(key)
    return keys, "" if keys else "which has no key; write one a line"
