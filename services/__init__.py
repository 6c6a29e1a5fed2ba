"""The processes: each service decides in a pure middle and waits in a thin shell."""

import sys
from types import ModuleType
from typing import cast

# structlog's coloured tracebacks import rich, which nobody here uses: a fifth of the CPU that a
# service's start takes, and its start is what one waits for after a crash.
# Only in a process of ours (`python -m …`, whose argv is not yet there): a project that imports
# the tool API pays for neither.
_is_service = sys.argv[:1] == ["-m"]
if _is_service and "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = cast(ModuleType, None)
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
