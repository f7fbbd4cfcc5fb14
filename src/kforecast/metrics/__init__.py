"""Where values come from: one source a file, each answering with the long frame of contract 3."""
