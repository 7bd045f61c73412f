"""What runs in the sandbox's own interpreter: standard library only, imported without the rest of the package."""
