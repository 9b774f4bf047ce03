"""Where processes of several hosts meet."""

import socket


def listen() -> socket.socket:
    """A socket that listens on this host, at the address that others see and a port that was free.

    Whoever opens the meeting gets the socket itself: of a port that was let go of and is opened
    again later, another process may have become the owner.
    """
    import ray

    listener = socket.socket()
    listener.bind((ray.util.get_node_ip_address(), 0))
    listener.listen()
    return listener
