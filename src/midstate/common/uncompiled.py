"""Methods that torch keeps its compiler out of, as they are without that: it imports the compiler to do so."""

from inspect import unwrap
from typing import TypeVar

Kind = TypeVar("Kind", bound=type)


def uncompiled(kind: Kind, *names: str) -> Kind:
    """Take torch's decorators off methods of a class, changed in place.

    The first call of a decorated one would import torch's compiler, which takes half as long as torch itself. Only a
    class whose methods the compiler never sees may do without.

    Args:
        kind: the class; a class of torch's is left to others as it is, so it must be an own subclass.
        names: of methods, inherited ones, too.
    """
    for name in names:
        setattr(kind, name, unwrap(getattr(kind, name)))
    return kind
