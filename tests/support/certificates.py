"""Writes certificates and keys for tests, from throw-away authorities."""

from pathlib import Path

import trustme


def write_pair(directory: Path, authority: trustme.CA, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """Write a certificate for a host and its key to files called ``name``, replacing each file atomically."""
    leaf = authority.issue_cert(host)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    for file, content in (
        (certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
        (key, leaf.private_key_pem.bytes()),
    ):
        new = file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(file)
    return certificate, key


def write_combined(directory: Path, authority: trustme.CA, name: str, host: str = "127.0.0.1") -> Path:
    """Write a certificate for a host, with the host as common name, and its key to one file."""
    file = directory / f"{name}.pem"
    leaf = authority.issue_cert(host, common_name=host)
    file.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    return file


def write_authority(directory: Path, authority: trustme.CA, name: str) -> Path:
    """Write the certificate of an authority."""
    file = directory / f"{name}.crt"
    file.write_bytes(authority.cert_pem.bytes())
    return file
