"""Certificates made for a test, so that it has as many authorities and servers as it needs."""

from pathlib import Path

import trustme


def write_pair(directory: Path, authority: trustme.CA, name: str, host: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate for a host and its key, in files named after ``name``; replaces what was there in one step each."""
    leaf = authority.issue_cert(host)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    for file, content in (
        (certificate, b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
        (key, leaf.private_key_pem.bytes()),
    ):
        fresh = file.with_suffix(".new")
        fresh.write_bytes(content)
        fresh.replace(file)
    return certificate, key


def write_combined(directory: Path, authority: trustme.CA, name: str, host: str = "127.0.0.1") -> Path:
    """A certificate for a host, with that host as its common name, and its key, both in one file."""
    file = directory / f"{name}.pem"
    leaf = authority.issue_cert(host, common_name=host)
    file.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    return file


def write_authority(directory: Path, authority: trustme.CA, name: str) -> Path:
    """The certificate of an authority."""
    file = directory / f"{name}.crt"
    file.write_bytes(authority.cert_pem.bytes())
    return file
