"""Readers: one `Volume` from every format; a format's library is loaded when a source of it is read."""
