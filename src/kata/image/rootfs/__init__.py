"""The guest's root file system: Debian packages cut down, the agent, and the file systems that hold them."""
