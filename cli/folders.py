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


def data(run_dir: str | Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """The journal's folder: VOICEBUS_DATA, else the settings file, else `data` in a run folder that
    somebody chose, else var/data. It need not exist."""
    given = loader.current_environment() if environment is None else environment
    cell, _ = loader.load(CellSettings, given, {})
    has_own_run = run_dir is not None or not is_default(cell)
    # Two stacks must never share a journal: who chose a run folder gets a data folder in it.
    if has_own_run and cell.data == CellSettings().data and "VOICEBUS_DATA" not in given:
        return choose(run_dir, given) / "data"
    return Path(cell.data).absolute()


def is_default(cell: CellSettings) -> bool:
    """Whether nobody chose a run folder."""
    return cell.run == CellSettings().run
