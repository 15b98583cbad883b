"""Expectations that do not hold yet, each with the reason. A test fails when one of them does hold."""

# Names of files of tests/hostile -> why what is expected does not come.
SNIFFED = "unknown suffixes are not looked into yet"
NO_FILE = "what is no file is not passed over yet"
PAIR = "names equal but for case are refused, and the batch with them"
FILES: dict[bytes, str] = {
    b"suffix/unknown.dat": SNIFFED,
    b"suffix/old-word.jpe": SNIFFED,
    b"special/socket.png": NO_FILE,
    b"special/symlink-to-zeros.png": NO_FILE,
    b"special/pipe.png": "whoever opens it waits for ever",
    b"special/symlink-to-itself.png": "RuntimeError of Path.resolve",
    b"pairs/Case.png": PAIR,
    b"pairs/case.png": PAIR,
}
# Of those, files that would make the batch hang or end; they are left out of it.
LEFT_OUT = {b"special/pipe.png", b"special/symlink-to-itself.png", b"pairs/Case.png", b"pairs/case.png"}
# Properties of batches, by the words of the tests.
PROPERTIES = {
    "control characters": "names are printed as they are",
    "folder in an output's place": "it is taken for a finished output and skipped",
    "unreadable folders": "they are passed over in silence",
    "leftovers of killed processes": "nobody takes them away",
}
