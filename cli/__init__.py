"""The `voicebus` command."""


def main() -> None:
    """Run it; never returns."""
    from voicebus.cli.main import run  # noqa: PLC0415  (the package itself stays light)

    run()
