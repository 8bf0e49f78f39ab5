"""ttrpc, the small RPC of containerd, as engines that do no I/O.

A frame is a 10-byte header and a payload: u32 length, u32 stream, u8 kind, u8 flags, all big-endian. Clients use odd
stream ids, each once, rising. A payload is at most 4 MiB. Our clients make unary calls only; our servers take calls of
many messages too.

Source: PROTOCOL.md of github.com/containerd/ttrpc.
"""
