"""What runs in the other interpreter: standard library only, and the one package that is served."""
