"""The one exception a person is meant to read: commands print it as a single line and exit with status 2."""


class InputError(ValueError):
    """Something the user gave (a path, a flag, a file, a config) cannot be used; the message says what to do."""


def cannot_write(path: str, error: OSError) -> InputError:
    """Of a disk that is full, or closed to this process."""
    return InputError(f"cannot write {path}: {error.strerror or error}; free space or check permissions")
