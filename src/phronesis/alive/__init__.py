"""Is a process alive, and what does it wait for: a thread that writes it down, and a reader that judges it from outside."""
