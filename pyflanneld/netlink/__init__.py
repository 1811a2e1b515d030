"""Shell: netlink. The only user of pyroute2.

To import any part of pyroute2 imports all of it first: 160 modules, 0.1 s of each start, and 10 MB. So its package is
made here without that. Its parts are imported as they are asked for; who wants a name of the package itself gets all.
"""

import importlib
import sys
from importlib.util import find_spec, module_from_spec
from typing import Any


def _without_its_parts(name: str) -> None:
    """Put the package *name* into ``sys.modules``, if it is not there, as one whose parts are not imported yet."""
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return
    package, loader = module_from_spec(spec), spec.loader

    def missing(attribute: str) -> Any:
        """Import a part, or else all that the package itself imports."""
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError:
            package.__dict__.pop("__getattr__", None)
            loader.exec_module(package)
            return getattr(package, attribute)

    package.__dict__["__getattr__"] = missing
    sys.modules[name] = package


_without_its_parts("pyroute2")
