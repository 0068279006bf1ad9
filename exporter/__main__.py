"""``python -m exporter`` is ``tempo-anomaly-exporter``."""

from exporter.runtime.signals import quiet_interrupt


def main() -> None:
    """Import and run the command line. Ctrl-C during the imports leaves no traceback."""
    with quiet_interrupt():
        from exporter.cli.main import main as command  # noqa: PLC0415 - within the block
    command()


if __name__ == "__main__":
    main()
