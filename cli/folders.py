"""Where a command finds its run folder."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from voicebus.bus.endpoints import BadRunFolder, Endpoints
from voicebus.config import loader
from voicebus.config.settings import CellSettings


def endpoints(
    run_dir: str | Path | None, environment: Mapping[str, str] | None = None
) -> Endpoints:
    """The cell's addresses: `--run-dir`, else VOICEBUS_RUN, else the settings file, else var/run.

    When nobody chose and the path of ./var/run is too long for Unix sockets, a folder under the
    system's temporary one stands in, the same for every command started here. Raises BadRunFolder
    and BadSettings.
    """
    return Endpoints(choose(run_dir, environment))


def choose(run_dir: str | Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """The run folder, absolute. It need not exist."""
    given = loader.current_environment() if environment is None else environment
    flags = {"run": str(run_dir) if run_dir is not None else None}
    cell, _ = loader.load(CellSettings, given, flags)
    try:
        return Endpoints(cell.run).run_dir
    except BadRunFolder:
        if not is_default(cell):
            raise
    name = hashlib.sha256(os.fsencode(Path.cwd())).hexdigest()[:8]
    return Endpoints(Path(tempfile.gettempdir()) / f"voicebus-{os.geteuid()}-{name}").run_dir


def is_default(cell: CellSettings) -> bool:
    """Whether nobody chose a run folder."""
    return cell.run == CellSettings().run
