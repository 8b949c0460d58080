"""The command line: a thin layer over the library. Commands are imported when they are called."""
