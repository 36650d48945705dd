"""The command keygen: a pair of keys, the private one to sign what is published and the public one to trust it."""

import argparse

from service.release.signature import make_signing_key


def keygen(arguments: argparse.Namespace) -> int:
    """Write a private key to a new file and print the public key; return the exit code. Raises StartError."""
    key = make_signing_key(arguments.file)
    print(f"{arguments.file} is the private key: publish with --signing-key {arguments.file}; keep it off the services")
    print("every service needs the public key:")
    print(f"RETORT_TRUSTED_KEYS={key.public_text}")
    return 0
