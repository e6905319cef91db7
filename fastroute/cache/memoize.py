"""`@cache.memoize(ttl=...)`: a function's results in the shared cache, by its arguments.

Not here: the cache itself. One decorator for both kinds of cache: it calls get_or_compute and hands back what that
returns, an awaitable from the asyncio cache, the value from the blocking one.

The key is the function's module and qualified name and its arguments, bound to its signature, so that f(1) and f(x=1)
and a default that was left out are one key. Arguments have to be plain values (keys.py); others are refused, because
their identity would differ from process to process. `key` replaces all that, for methods and for objects.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fastroute.cache.keys import Key
from fastroute.errors import UsageError

__all__ = ["memoize"]


def memoize(
    cache: Any,
    *,
    ttl: float | str,
    stale: float | str = 0,
    negative_ttl: float | str = 0,
    stale_if_error: float | str = 0,
    tags: Sequence[str] | Callable[..., Sequence[str]] = (),
    key: Callable[..., Key] | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """A decorator.

    Args:
        cache: a SharedCache of either kind.
        ttl, stale, negative_ttl, stale_if_error: as for get_or_compute.
        tags: of every result, or a function of the arguments that gives them.
        key: a function of the arguments that gives the key; by default the function's name and its arguments.
        name: in place of the function's module and qualified name: a key that outlives a renaming.

    Returns:
        A decorator. What it makes has `key_of(*args, **kwargs)`, and `delete(*args, **kwargs)`, which forgets a result.

    Raises:
        UsageError: a coroutine function with the blocking cache; when called, arguments that are no plain values.
    """
    blocking = not inspect.iscoroutinefunction(cache.get_or_compute)

    def decorate(function: Callable[..., Any]) -> Any:
        if blocking and inspect.iscoroutinefunction(function):
            raise UsageError(f"{function.__qualname__} is a coroutine function: accepted with the asyncio cache alone")
        signature = inspect.signature(function)
        full_name = name or f"{function.__module__}.{function.__qualname__}"

        def key_of(*args: Any, **kwargs: Any) -> Key:
            if key is not None:
                return key(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            parts: list[Any] = [full_name]
            for parameter, value in bound.arguments.items():
                keywords = signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD
                parts.append(tuple(sorted(value.items())) if keywords else value)
            return tuple(parts)

        def options_of(*args: Any, **kwargs: Any) -> dict[str, Any]:
            return {
                "ttl": ttl,
                "stale": stale,
                "negative_ttl": negative_ttl,
                "stale_if_error": stale_if_error,
                "tags": tags(*args, **kwargs) if callable(tags) else tags,
            }

        if blocking:

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                compute = functools.partial(function, *args, **kwargs)
                return cache.get_or_compute(key_of(*args, **kwargs), compute, **options_of(*args, **kwargs))

            def delete(*args: Any, **kwargs: Any) -> Any:
                return cache.delete(key_of(*args, **kwargs))

            wrapper: Any = call
            wrapper.delete = delete
        else:

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                compute = functools.partial(function, *args, **kwargs)
                return await cache.get_or_compute(key_of(*args, **kwargs), compute, **options_of(*args, **kwargs))

            async def delete_async(*args: Any, **kwargs: Any) -> Any:
                return await cache.delete(key_of(*args, **kwargs))

            wrapper = call_async
            wrapper.delete = delete_async
        wrapper.key_of = key_of
        return wrapper

    return decorate
