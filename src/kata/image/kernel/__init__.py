"""The guest kernel: built from Debian's source by configuration fragments, or taken from Debian."""
