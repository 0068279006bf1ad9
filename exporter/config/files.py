"""Checks the files that the configuration names for Tempo: they exist, can be read and are not empty.

Only ``--check-config`` requires that. A running exporter waits for them: a secret may be mounted after the start.
"""

from pathlib import Path

from exporter.config.schema import Config


def file_problems(config: Config) -> list[str]:
    """Return a sentence for each file that is unusable, with the dotted path of its key."""
    tempo = config.tempo
    files = {
        "tempo.auth_token_file": tempo.auth_token_file,
        "tempo.basic_auth.password_file": tempo.basic_auth.password_file,
        "tempo.tls.ca_file": tempo.tls.ca_file,
        "tempo.tls.cert_file": tempo.tls.cert_file,
        "tempo.tls.key_file": tempo.tls.key_file,
    }
    return [f"{key} {path} {problem}" for key, path in files.items() if path is not None and (problem := _check(path))]


def _check(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "" if file.read(1) else "is empty"
    except OSError as error:
        return f"cannot be read: {error.strerror or type(error).__name__}"
