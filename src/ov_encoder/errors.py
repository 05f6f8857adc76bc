"""One exception for media, checkpoints or streams that cannot be used. Wrong arguments are ValueError."""


class OvEncoderError(Exception):
    """Something given to us cannot be used: the message names the file, the value, and what would be right."""


def missing_extra(package: str, extra: str, purpose: str) -> OvEncoderError:
    """The error for an optional package that is not installed: says what needs it and how to get it."""
    return OvEncoderError(f"{purpose} needs {package}: pip install 'ov-encoder[{extra}]'")
