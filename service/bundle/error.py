"""The errors of a bundle that must not be served. Every message names the file that is wrong."""


class BundleError(Exception):
    """A bundle must not be served."""


class BundleMissingError(BundleError):
    """There is no bundle at the path."""


class BundleFormatError(BundleError):
    """The manifest has a format that this version of Retort does not read."""


class BundleCorruptError(BundleError):
    """A file differs from what the manifest promises, or its content is not what the format prescribes."""
