"""The divergence from a reference policy."""
