"""The body of POST /similar."""

from pydantic import ConfigDict, Field, model_validator

from service.request.field import Id, Ids
from service.request.recommend import MAX_HISTORY, ListRequest, parse_list

MAX_ANCHORS = 20


class SimilarRequest(ListRequest):
    """Ask for the k items that go best with one item, or with several."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"item_id": {"type": "null"}}},
            "then": {"required": ["item_ids"], "properties": {"item_ids": {"type": "array", "minItems": 1}}},
            "examples": [{"item_id": "i3", "k": 8}, {"item_ids": ["i3", "i4"], "user_id": "u1", "k": 8}],
        }
    )

    item_id: Id | None = Field(None, description="what goes with this item; required unless item_ids is given")
    item_ids: Ids | None = Field(
        None, min_length=1, max_length=MAX_ANCHORS, description="what goes with all of these, beside item_id"
    )
    user_id: Id | None = Field(None, description="for whom, by the stored history")
    history: Ids | None = Field(
        None, max_length=MAX_HISTORY, description="for somebody with this history, item ids, oldest first"
    )
    exclude_seen: bool | None = Field(None, description="leave out the history used; the bundle sets the default")

    @model_validator(mode="after")
    def _need_an_item(self) -> "SimilarRequest":
        if self.item_id is None and self.item_ids is None:
            raise ValueError("give item_id, or item_ids")
        return self

    def anchors(self) -> list[str]:
        """Return the ids of the items that are asked about."""
        return [*([] if self.item_id is None else [self.item_id]), *(self.item_ids or ())]


def parse_similar_request(body: bytes) -> SimilarRequest:
    """Check a body of POST /similar. Raises RequestError."""
    return parse_list(SimilarRequest, body)
