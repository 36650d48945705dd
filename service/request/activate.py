"""The bodies of POST /model/activate and POST /model/compare."""

from typing import Annotated

from pydantic import ConfigDict, Field

from service.request.field import Body

_Version = Annotated[
    str, Field(pattern="^[0-9a-f]{16}$", min_length=16, max_length=16, description="a published version")
]


class ActivateRequest(Body):
    """The body of POST /model/activate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "306f1bf5c1779dbd"}]})

    version: _Version


class CompareRequest(Body):
    """The body of POST /model/compare."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "306f1bf5c1779dbd", "users": 50, "k": 10}]})

    version: _Version
    users: int = Field(50, ge=1, le=100, description="how many are sampled")
    k: int = Field(10, ge=1, le=100, description="how many items each list has")
