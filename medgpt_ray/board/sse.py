"""Server-sent events: what a page hears while it is open."""

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse


def stream(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Each of `events` as JSON, as it comes."""

    async def lines() -> AsyncIterator[str]:
        async for event in events:
            yield f"data: {json.dumps(event)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
