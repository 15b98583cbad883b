"""Pictures through the network, overlapped."""
