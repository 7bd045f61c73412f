"""How fast engines decode on this machine, side by side: `phronesis bench engine`."""
