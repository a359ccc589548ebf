from collections.abc import Coroutine
from typing import Any

class NextEvent(Coroutine[Any, Any, Any]):
    def __init__(self, source: Any) -> None: ...

def next_event(self: Any) -> NextEvent: ...
