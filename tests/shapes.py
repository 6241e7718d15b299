"""Checks the shapes and dtypes of arrays against the annotations while tests run (`make shapes`), and no other type.

What users may get wrong is refused by the package itself, with messages that tests read; a checker of all types would
come first. Shapes of a call share their names: the d of one argument is the d of all, and of the result.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
from jaxtyping import AbstractArray


def checked(function: Callable) -> Callable:
    """The function, which raises a TypeError if an array does not have the shape that it is to have."""
    signature = inspect.signature(function)
    hints = {name: one.annotation for name, one in signature.parameters.items()}
    hints = {name: hint for name, hint in (hints | {"return": signature.return_annotation}).items() if has_shape(hint)}
    if not hints:
        return function

    def check(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        values = signature.bind(*args, **kwargs).arguments | {"return": result}
        for name, value in values.items():
            if name in hints and not fits(value, hints[name]):
                raise TypeError(f"{name} is {value!r}; expected {hints[name]}")
        return result

    return check


def is_shape(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, AbstractArray)


def has_shape(hint: Any) -> bool:
    return is_shape(hint) or any(has_shape(one) for one in get_args(hint))


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says, as far as that is known here."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple and inner[-1:] != (...,):
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(fits, value, inner))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, origin) and all(fits(one, inner[1]) for one in value.values())
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return isinstance(value, origin) and all(fits(one, inner[0]) for one in value)
    if is_shape(hint) and not hasattr(value, "shape"):
        return True
    if is_shape(hint) and isinstance(value, np.ndarray):  # as good as an array of JAX wherever one is taken
        hint = hint.dtype[np.ndarray, hint.dim_str]
    return not inspect.isclass(hint) or isinstance(value, hint)
