"""The version of abboot: in records, journal entries and `abboot --version`."""

VERSION = "0.1.0"
