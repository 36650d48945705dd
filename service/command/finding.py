"""What a check of the doctor finds, and how bad it is; see doctor."""

from dataclasses import dataclass

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. advice: the way out, if the level is not PASS."""

    level: str
    subject: str
    text: str
    advice: str = ""
