"""Methods of torch without the decorators that keep torch's compiler out, and import the compiler to do so."""

from inspect import unwrap
from typing import TypeVar

Kind = TypeVar("Kind", bound=type)


def uncompiled(kind: Kind, *names: str) -> Kind:
    """Take torch's decorators off methods of a class, changed in place.

    The first call of a decorated method imports torch's compiler, which takes half as long as importing torch. Use
    this only for a class whose methods are never compiled.

    Args:
        kind: the class, a subclass of our own: torch's class must stay as it is for other code.
        names: names of methods, which may be inherited.
    """
    for name in names:
        setattr(kind, name, unwrap(getattr(kind, name)))
    return kind
