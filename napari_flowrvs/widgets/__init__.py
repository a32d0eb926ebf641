"""The dock widget and its panels."""
