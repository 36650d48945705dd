"""The body of POST /model/activate."""

from pydantic import ConfigDict, Field

from service.request.field import Body


class ActivateRequest(Body):
    """The body of POST /model/activate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"version": "306f1bf5c1779dbd"}]})

    version: str = Field(pattern="^[0-9a-f]{16}$", min_length=16, max_length=16, description="a published version")
