"""Journals by time: partitions made ahead, ended instances removed."""
