"""The online half of Retort: answers top-K requests from a bundle, inside a latency budget. Never imports torch."""

__version__ = "0.1.0"
