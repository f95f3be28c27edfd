"""How much is taken from whoever asks, and what says no where it is more."""

from __future__ import annotations

import dataclasses

from pipeline.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Raises InputError where a value makes no sense."""

    max_request_bytes: int = 32 << 20  # the largest photos of telephones have 20 MB; base64 makes them a third longer
    max_pixels: int = 52_000_000  # of one image: telephones take 48 and 50 million, which are some 400 MB decoded
    max_instances: int = 32  # of one request; more are sent as several requests, which others come between
    max_waiting: int = (
        128  # images that are prepared or wait for the model: seconds of work, beyond which waiting is vain
    )
    max_buffered_bytes: int = 256 << 20  # of all requests that are being received or answered
    max_connections: int = 1000  # an idle one takes some 50 KB; the usual limit of open files is 1,024
    header_timeout_s: float = 10.0  # from the connection, or the answer before, to the end of the headers
    body_timeout_s: float = 30.0  # 32 MB at 10 Mbit/s
    answer_timeout_s: float = 10.0  # people have left by then
    # MobileNetV2 at 160 took 10.9 ms an image alone, 3.6 in batches of 16 and no less in batches of 32.
    max_batch: int = 16
    max_delay_s: float = 0.005  # only while nothing else runs, and half of what an image alone takes

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "max_delay_s"):
                raise InputError(f"{field.name} is {value}: expected more than 0")
        if self.max_buffered_bytes < self.max_request_bytes:
            raise InputError(
                f"max_request_bytes is {self.max_request_bytes}, max_buffered_bytes {self.max_buffered_bytes}: a "
                "request of that many would always be refused; lower the first"
            )
        if self.max_waiting < self.max_instances:
            raise InputError(
                f"max_waiting is {self.max_waiting}, max_instances {self.max_instances}: a request of that many "
                "would always be refused; raise the first or lower the second"
            )


class Refusal(Exception):  # noqa: N818  # an answer, not a failure
    """What is answered instead of a prediction.

    Args:
      status: of HTTP.
      reason: a short code from a closed list, which metrics count by.
      message: one line that says what was wrong, what was expected, what to do.
      retry_after_s: whole seconds, for those that may come again.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


def overloaded(what: str) -> Refusal:
    return Refusal(503, "overloaded", f"too many {what} at once: try again", retry_after_s=1)
