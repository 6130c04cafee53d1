"""An order without anybody in the middle: three services that follow each other's events."""
