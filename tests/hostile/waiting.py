"""Expectations that do not hold yet, each with the reason. A test fails when one of them does hold."""

# Names of files of tests/hostile -> why what is expected does not come.
FILES: dict[bytes, str] = {}
# Of those, files that would make the batch hang or end; they are left out of it.
LEFT_OUT: set[bytes] = set()
# Properties of batches, by the words of the tests -> the same.
PROPERTIES: dict[str, str] = {}
